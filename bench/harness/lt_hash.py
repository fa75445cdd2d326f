"""What libtorrent takes to hash: `create PATH PROTOCOL PIECE_LENGTH OUT` makes a torrent, `check TORRENT FOLDER` checks
what is there, with two hashing threads."""

import os
import sys

import libtorrent as lt


def create(path: str, protocol: str, piece: str, out: str):
    files = lt.file_storage()
    lt.add_files(files, path)
    flags = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}[protocol]
    torrent = lt.create_torrent(files, int(piece), flags=flags)
    lt.set_piece_hashes(torrent, path.rpartition("/")[0])
    with open(out, "wb") as file:
        file.write(lt.bencode(torrent.generate()))


def check(torrent: str, folder: str):
    session = lt.session({
        "listen_interfaces": "127.0.0.1:0", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
        "enable_natpmp": False, "hashing_threads": 2, "aio_threads": 4, "checking_mem_usage": 2048,
        "alert_mask": lt.alert.category_t.error_notification | lt.alert.category_t.status_notification,
    })
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(torrent)
    parameters.save_path = folder
    parameters.trackers = []
    handle = session.add_torrent(parameters)
    while True:
        session.wait_for_alert(10_000)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.torrent_checked_alert):
                # The end of the session is no part of the check.
                os._exit(0 if handle.status().is_seeding else 1)


{"create": create, "check": check}[sys.argv[1]](*sys.argv[2:])
