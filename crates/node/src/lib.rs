//! The IO of obt: sockets, disks, HTTP, and the tasks that run the cores.
