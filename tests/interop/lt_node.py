"""A libtorrent client for tests: adds one torrent and runs until it is ended. Run as a process of its own."""

import argparse
import sys
import time

import libtorrent as lt

arguments = argparse.ArgumentParser()
arguments.add_argument("torrent")
arguments.add_argument("folder")
arguments.add_argument("--listen", required=True)
arguments.add_argument("--protocol", choices=["any", "v1", "v2"], default="any")
options = arguments.parse_args()

session = lt.session({
    "listen_interfaces": options.listen,
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "allow_multiple_connections_per_ip": True,
    "out_enc_policy": int(lt.enc_policy.disabled), "in_enc_policy": int(lt.enc_policy.enabled),
    "enable_outgoing_utp": False, "enable_incoming_utp": False,
    "ssrf_mitigation": False,
    "alert_mask": lt.alert.category_t.error_notification | lt.alert.category_t.status_notification
    | lt.alert.category_t.tracker_notification | lt.alert.category_t.peer_notification,
})
parameters = lt.add_torrent_params()
parameters.ti = lt.torrent_info(options.torrent)
parameters.save_path = options.folder
parameters.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
handle = session.add_torrent(parameters)
while True:
    for alert in session.pop_alerts():
        print(alert.category(), type(alert).__name__, alert.message(), flush=True)
    status = handle.status()
    print(f"status {status.state} {status.progress:.3f} peers {status.num_peers}", file=sys.stderr, flush=True)
    time.sleep(0.25)
