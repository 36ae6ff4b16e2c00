//! The only way to disks, sockets, time and chance.
