use super::*;

const TENANT: &str = "11110000000000000000000000000005";
const TIMELINE: &str = "22220000000000000000000000000501";

fn startup(parameters: &[(&str, &str)]) -> Result<StartupParameters, StartupError> {
    let packet = encode_startup(parameters);
    match decode(&packet)?.expect("complete") {
        (StartupPacket::Startup(parameters), length) => {
            assert_eq!(length, packet.len());
            Ok(parameters)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_dash_c_may_precede_several_options() {
    let options = format!("-c timeline_id={TIMELINE} tenant_id={TENANT}");
    let parameters = startup(&[("user", "x"), ("options", &options)]).unwrap();
    assert_eq!(parameters.tenant_id.unwrap().to_string(), TENANT);
    assert_eq!(parameters.timeline_id.unwrap().to_string(), TIMELINE);
    assert_eq!(parameters.read_protocol, ReadProtocol::Vanilla);
}

#[test]
fn every_form_of_an_option_is_understood() {
    for options in [
        format!("-c timeline_id={TIMELINE} -c tenant_id={TENANT}"),
        format!("-ctimeline_id={TIMELINE} --tenant_id={TENANT}"),
        format!("timeline_id={TIMELINE} tenant_id={TENANT}"),
    ] {
        let parameters = startup(&[("options", &options)]).unwrap();
        assert_eq!(parameters.tenant_id.unwrap().to_string(), TENANT);
        assert_eq!(parameters.timeline_id.unwrap().to_string(), TIMELINE);
    }
}

#[test]
fn old_names_and_read_protocol_are_understood() {
    let options = format!(
        "-c ztimelineid={TIMELINE} ztenantid={TENANT} \
         protocol={{\"type\":\"interpreted\",\"args\":{{\"format\":\"protobuf\"}}}} shard_count=0"
    );
    let parameters =
        startup(&[("application_name", "pageserver-1"), ("options", &options)]).unwrap();
    assert!(!parameters.replication);
    assert!(startup(&[("replication", "true")]).unwrap().replication);
    assert_eq!(parameters.read_protocol, ReadProtocol::Interpreted);
    assert_eq!(parameters.application_name, "pageserver-1");
    assert!(parameters.tenant_id.is_some() && parameters.timeline_id.is_some());
}

#[test]
fn a_backslash_keeps_white_space() {
    assert_eq!(split_options(r"a\ b  c\\d "), ["a b", r"c\d"]);
}

#[test]
fn malformed_ids_are_named() {
    let error = startup(&[("options", "tenant_id=zz")]).unwrap_err();
    assert_eq!(error.to_string(), "invalid option tenant_id=\"zz\": expected 32 hex digits");
}

#[test]
fn special_requests_are_told_apart() {
    let request = |code: u32| {
        let mut packet = 8u32.to_be_bytes().to_vec();
        packet.extend_from_slice(&code.to_be_bytes());
        packet
    };
    assert_eq!(decode(&request(80_877_103)), Ok(Some((StartupPacket::SslRequest, 8))));
    assert_eq!(decode(&request(80_877_104)), Ok(Some((StartupPacket::GssEncryptionRequest, 8))));
    assert_eq!(decode(&request(80_877_102)), Ok(Some((StartupPacket::CancelRequest, 8))));
    assert_eq!(decode(&request(2 << 16)), Err(StartupError::Version { major: 2, minor: 0 }));
    assert_eq!(decode(b"GET / HTTP/1.1"), Err(StartupError::Length { found_bytes: 0x4745_5420 }));
    assert_eq!(decode(&[0x16, 3, 1]), Err(StartupError::DirectTls));
    assert_eq!(decode(&request(80_877_103)[..7]), Ok(None));
}

proptest::proptest! {
    #[test]
    fn hostile_packets_are_values(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let mut packet = ((bytes.len() + 8) as u32).to_be_bytes().to_vec();
        packet.extend_from_slice(&PROTOCOL_3_0.to_be_bytes());
        packet.extend_from_slice(&bytes);
        let _ = decode(&packet);
        let _ = decode(&bytes);
    }
}
