use super::*;
use crate::runtime::block_on;

fn decoded(block: &[u8]) -> Result<NodeId, IdentityError> {
    decode(Path::new("d/node"), block)
}

#[test]
fn the_block_is_as_drawn() {
    let block = encode(NodeId(0x0102_0304_0506_0708), 1);
    assert_eq!(
        &block[..32],
        b"FIRNNODE\x01\0\0\0\0\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01\x01\0\0\0\0\0\0\0"
    );
    assert_eq!(decoded(&block).unwrap(), NodeId(0x0102_0304_0506_0708));
}

#[test]
fn newer_formats_and_damage_are_told_apart() {
    let mut newer = encode(NodeId(7), 1);
    newer[8] = 2;
    assert_eq!(
        decoded(&newer).unwrap_err().to_string(),
        "d/node has format version 2, expected 1: run a newer firn-node"
    );
    let mut flipped = encode(NodeId(7), 1);
    flipped[16] ^= 1;
    assert!(decoded(&flipped).unwrap_err().to_string().contains("damaged: expected the CRC"));
    assert!(decoded(&[0; 4096]).unwrap_err().to_string().contains("expected magic"));
    assert!(decoded(&[]).unwrap_err().to_string().contains("expected 4096 bytes"));
}

/// Opens directories one after the other on one shard, holding those that opened.
fn open_all(attempts: Vec<(PathBuf, Option<NodeId>)>) -> Vec<Result<DataDirectory, String>> {
    block_on(|runtime| async move {
        let mut results = Vec::new();
        for (path, wanted) in attempts {
            let result = DataDirectory::open(&runtime, &path, wanted).await;
            results.push(result.map_err(|error| error.to_string()));
        }
        results
    })
    .unwrap()
}

#[test]
fn a_node_id_is_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b");
    let first = open_all(vec![(path.clone(), None)]).remove(0).unwrap();
    assert!(first.created && first.node_id.0 > 0);
    let id = first.node_id;
    drop(first);
    let again = open_all(vec![(path.clone(), None)]).remove(0).unwrap();
    assert_eq!((again.node_id, again.created), (id, false));
    drop(again);
    let other = open_all(vec![(path, Some(NodeId(id.0 ^ 1)))]).remove(0).unwrap_err();
    assert!(other.contains(&format!("belongs to node {id}, not to node")), "{other}");
}

#[test]
fn a_directory_in_use_or_of_something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("inner");
    let twice = open_all(vec![(path.clone(), Some(NodeId(7))), (path.clone(), None)]);
    assert_eq!(twice[0].as_ref().unwrap().node_id, NodeId(7));
    let in_use = twice[1].as_ref().unwrap_err();
    assert!(in_use.ends_with("is in use by another firn-node process"), "{in_use}");

    let foreign = open_all(vec![(directory.path().to_path_buf(), None)]).remove(0).unwrap_err();
    assert!(foreign.contains("but no file `node`"), "{foreign}");
    let below_a_file = open_all(vec![(path.join("lock/x"), None)]).remove(0).unwrap_err();
    assert!(below_a_file.contains("cannot be written"), "{below_a_file}");
}
