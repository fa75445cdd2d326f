"""A libtorrent client, tuned for a fast local network or not: seeds what is there, or fetches and says so at once."""

import argparse

import libtorrent as lt

arguments = argparse.ArgumentParser()
arguments.add_argument("torrent")
arguments.add_argument("folder")
arguments.add_argument("--listen", required=True)
arguments.add_argument("--hook", help="write a line here when all is fetched")
arguments.add_argument("--defaults", action="store_true", help="tune nothing")
options = arguments.parse_args()

settings = {} if options.defaults else lt.high_performance_seed() | {
    "choking_algorithm": 0, "unchoke_slots_limit": -1,
    "max_out_request_queue": 2000, "max_allowed_in_request_queue": 4000,
    "send_buffer_watermark": 4 << 20, "send_socket_buffer_size": 1 << 20, "recv_socket_buffer_size": 1 << 20,
    "aio_threads": 4, "hashing_threads": 2, "max_queued_disk_bytes": 64 << 20,
}
settings.update({
    "listen_interfaces": options.listen,
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "out_enc_policy": int(lt.enc_policy.disabled), "in_enc_policy": int(lt.enc_policy.disabled),
    "enable_outgoing_utp": False, "enable_incoming_utp": False, "ssrf_mitigation": False,
    "allow_multiple_connections_per_ip": True,
    "alert_mask": lt.alert.category_t.error_notification | lt.alert.category_t.status_notification,
})
session = lt.session(settings)
parameters = lt.add_torrent_params()
parameters.ti = lt.torrent_info(options.torrent)
parameters.save_path = options.folder
parameters.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
session.add_torrent(parameters)
while True:
    session.wait_for_alert(10_000)
    for alert in session.pop_alerts():
        if options.hook and isinstance(alert, lt.torrent_finished_alert):
            with open(options.hook, "w") as hook:
                hook.write("finished\n")
        print(alert.category(), type(alert).__name__, alert.message(), flush=True)
