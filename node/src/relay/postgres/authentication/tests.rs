use super::*;

fn exchange(password: Option<&str>, binding: ChannelBinding, data: BindingData) -> Authentication {
    Authentication::new("alice", password.map(str::to_string), binding, data)
}

fn request(code: u32, data: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], data].concat()
}

#[test]
fn trust_is_done_at_once() {
    let mut trust = exchange(None, ChannelBinding::Prefer, BindingData::NoTls);
    assert_eq!(trust.answer(&request(0, b"")).unwrap(), Step::Done);
}

#[test]
fn clear_text_and_md5() {
    let mut clear = exchange(Some("secret"), ChannelBinding::Prefer, BindingData::NoTls);
    let expected = Step::Send(b"p\0\0\0\x0bsecret\0".to_vec());
    assert_eq!(clear.answer(&request(3, b"")).unwrap(), expected);
    let mut md5 = exchange(Some("secret"), ChannelBinding::Prefer, BindingData::NoTls);
    let Step::Send(sent) = md5.answer(&request(5, b"salt")).unwrap() else { panic!() };
    assert!(sent[5..].starts_with(b"md5") && sent.len() == 1 + 4 + 35 + 1);
}

#[test]
fn missing_password_is_told() {
    let mut clear = exchange(None, ChannelBinding::Prefer, BindingData::NoTls);
    let error = clear.answer(&request(3, b"")).unwrap_err().to_string();
    assert!(error.contains("\"alice\""), "{error}");
}

#[test]
fn scram_picks_the_mechanism_by_what_can_be_bound() {
    let first = |binding, data, offer: &[u8]| {
        let mut scram = exchange(Some("secret"), binding, data);
        scram.answer(&request(10, offer)).map(|step| match step {
            Step::Send(bytes) => String::from_utf8_lossy(&bytes[5..]).into_owned(),
            Step::Done => panic!(),
        })
    };
    let both = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
    let plain = b"SCRAM-SHA-256\0\0";
    let end_point = || BindingData::ServerEndPoint(vec![7; 32]);
    let text = first(ChannelBinding::Prefer, end_point(), both).unwrap();
    assert!(text.starts_with("SCRAM-SHA-256-PLUS\0") && text.contains("p=tls-server-end-point"));
    let text = first(ChannelBinding::Prefer, end_point(), plain).unwrap();
    assert!(text.starts_with("SCRAM-SHA-256\0") && text.contains("y,,"));
    let text = first(ChannelBinding::Disable, end_point(), both).unwrap();
    assert!(text.starts_with("SCRAM-SHA-256\0") && text.contains("n,,"));
    for data in [BindingData::NoTls, BindingData::Unavailable] {
        let text = first(ChannelBinding::Prefer, data, plain).unwrap();
        assert!(text.starts_with("SCRAM-SHA-256\0") && text.contains("n,,"));
    }
    assert!(matches!(
        first(ChannelBinding::Require, end_point(), plain),
        Err(AuthenticationError::NoChannelBinding)
    ));
    assert!(matches!(
        first(ChannelBinding::Prefer, BindingData::NoTls, b"OAUTHBEARER\0\0"),
        Err(AuthenticationError::UnsupportedMechanism { .. })
    ));
}

#[test]
fn requiring_a_binding_refuses_everything_weaker() {
    for (code, data) in [(0, &b""[..]), (3, b""), (5, b"salt")] {
        let mut weak = exchange(Some("secret"), ChannelBinding::Require, BindingData::NoTls);
        assert!(matches!(
            weak.answer(&request(code, data)),
            Err(AuthenticationError::NoChannelBinding)
        ));
    }
}

#[test]
fn a_server_may_not_skip_its_proof() {
    let mut scram = exchange(Some("secret"), ChannelBinding::Prefer, BindingData::NoTls);
    scram.answer(&request(10, b"SCRAM-SHA-256\0\0")).unwrap();
    assert!(matches!(
        scram.answer(&request(0, b"")),
        Err(AuthenticationError::Malformed { method: 0 })
    ));
}

#[test]
fn hostile_requests_are_refused() {
    for payload in [&b""[..], b"\0\0", &request(5, b"s"), &request(11, b"x"), &request(12, b"x")] {
        let mut any = exchange(Some("secret"), ChannelBinding::Prefer, BindingData::NoTls);
        assert!(any.answer(payload).is_err(), "{payload:?}");
    }
}
