use clap::Parser;

use super::*;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    run: RunArguments,
}

fn run(options: &[&str]) -> Result<RunArguments, String> {
    let options = ["firn-node", "--data", "d"].iter().chain(options);
    CommandLine::try_parse_from(options).map(|line| line.run).map_err(|error| error.to_string())
}

#[test]
fn without_keys_only_loopback_is_served() {
    assert!(run(&[]).unwrap().listen_address().is_ok());
    assert!(run(&["--listen", "[::1]:0"]).unwrap().listen_address().is_ok());
    let error = run(&["--listen", "0.0.0.0:5454"]).unwrap().listen_address().unwrap_err();
    assert_eq!(
        error.to_string(),
        "--listen 0.0.0.0:5454 is not a loopback address: without --auth-public-key a node serves loopback only"
    );
    assert!(run(&["--http", "0.0.0.0:0"]).unwrap().http_address().is_err());
    let open = run(&["--listen", "0.0.0.0:0", "--auth-public-key", "k"]).unwrap();
    assert!(open.listen_address().is_ok());
}

#[test]
fn shards_follow_cores() {
    assert_eq!(run(&[]).unwrap().shard_count(3), Ok(3));
    assert_eq!(run(&["--cores", "0,2-4"]).unwrap().shard_count(9), Ok(4));
    assert_eq!(run(&["--shards", "2", "--cores", "0,2-4"]).unwrap().shard_count(9), Ok(2));
    let few = run(&["--shards", "2", "--cores", "7"]).unwrap();
    assert_eq!(few.shard_count(9), Err(ArgumentError::Cores { cores: 1, shards: 2 }));
    assert!(run(&["--shards", "0"]).unwrap().shard_count(9).is_err());
}

#[test]
fn devices_and_times_have_text_forms() {
    let plain = run(&[]).unwrap();
    assert_eq!((plain.device, plain.spin), (Device::Real, Duration::ZERO));
    let options = run(&["--device", "modelled:30us", "--spin", "100us"]).unwrap();
    let (write, read) = (Duration::from_micros(30), Duration::from_micros(80));
    assert_eq!(options.device, Device::Modelled { write, read });
    assert_eq!(options.spin, Duration::from_micros(100));
    assert!(run(&["--spin", "100"]).unwrap_err().contains("expected 0us to 1000000us"));
    assert!(run(&["--device", "slow"]).unwrap_err().contains("real, volatile or modelled"));
}

#[test]
fn malformed_values_are_named() {
    assert!(run(&["--cores", "3-1"]).unwrap_err().contains("as 0-3,6"));
    assert!(run(&["--node-id", "0"]).unwrap_err().contains("from 1 to"));
    assert!(run(&["--runtime", "tokio"]).unwrap_err().contains("uring"));
    assert!(run(&["--listen", "here"]).unwrap().listen_address().is_err());
    for (value, expected) in [("db.example:5454", Some("db.example")), ("[::1]:1", Some("::1"))] {
        let found = run(&["--advertise", value]).unwrap().advertised().unwrap();
        assert_eq!(found.map(|(host, _)| host).as_deref(), expected);
    }
    for value in ["", "host", ":1", "[]:1", "host:0", "host:99999"] {
        assert!(run(&["--advertise", value]).unwrap().advertised().is_err(), "{value}");
    }
}
