//! `firn-node`: the storage node and the relay.

fn main() {}
