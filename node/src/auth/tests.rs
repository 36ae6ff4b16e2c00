use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::*;

const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIMAKm1oc96/eEclI0eJksrzPzApw/yBm/tyN6HCnTeqI
-----END PRIVATE KEY-----
";
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAimNRAK61P3trG5xrXyAstxPjf8urQvyHUDY99nw8Uy4=
-----END PUBLIC KEY-----
";
const OTHER_PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAo5o67bnx+vf19RZdJlFuXmH9T+DL604JdbMSK84YLzA=
-----END PUBLIC KEY-----
";
const TENANT: &str = "11110000000000000000000000000005";

fn token(claims: Value) -> String {
    let key = EncodingKey::from_ed_pem(PRIVATE_KEY.as_bytes()).unwrap();
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key).unwrap()
}

fn keys(pems: &[&str]) -> PublicKeys {
    let directory = tempfile::tempdir().unwrap();
    for (index, pem) in pems.iter().enumerate() {
        std::fs::write(directory.path().join(format!("{index}.pem")), pem).unwrap();
    }
    PublicKeys::load(directory.path()).unwrap()
}

#[test]
fn any_configured_key_verifies() {
    let grant =
        keys(&[OTHER_PUBLIC_KEY, PUBLIC_KEY]).verify(&token(json!({"scope": "safekeeperdata"})), 1);
    assert_eq!(grant.unwrap(), Grant::Node);
    let grant = keys(&[OTHER_PUBLIC_KEY]).verify(&token(json!({"scope": "safekeeperdata"})), 1);
    assert!(matches!(grant, Err(AuthError::Signature)));
}

#[test]
fn a_tenant_token_grants_its_tenant_only() {
    let keys = keys(&[PUBLIC_KEY]);
    let grant = keys.verify(&token(json!({"scope": "tenant", "tenant_id": TENANT})), 1).unwrap();
    assert!(grant.check_tenant(TENANT.parse().unwrap()).is_ok());
    assert!(grant.check_tenant(TenantId::default()).is_err());
    assert!(grant.check_node().is_err());
    assert!(matches!(keys.verify(&token(json!({"scope": "tenant"})), 1), Err(AuthError::NoTenant)));
}

#[test]
fn other_scopes_and_old_tokens_grant_nothing() {
    let keys = keys(&[PUBLIC_KEY]);
    assert!(matches!(
        keys.verify(&token(json!({"scope": "pageserverapi"})), 1),
        Err(AuthError::Scope { .. })
    ));
    let dated = token(json!({"scope": "safekeeperdata", "exp": 100}));
    assert!(keys.verify(&dated, 99).is_ok());
    assert!(matches!(keys.verify(&dated, 100), Err(AuthError::Expired { .. })));
}

#[test]
fn other_algorithms_are_refused() {
    let keys = keys(&[PUBLIC_KEY]);
    let key = EncodingKey::from_secret(PUBLIC_KEY.as_bytes());
    let forged =
        jsonwebtoken::encode(&Header::default(), &json!({"scope": "safekeeperdata"}), &key)
            .unwrap();
    assert!(matches!(keys.verify(&forged, 1), Err(AuthError::Signature)));
    assert!(matches!(keys.verify("", 1), Err(AuthError::Signature)));
    assert!(matches!(keys.verify(&"x".repeat(1 << 20), 1), Err(AuthError::Signature)));
}

#[test]
fn what_is_not_a_key_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key.pem");
    for content in [PRIVATE_KEY, "", "key"] {
        std::fs::write(&file, content).unwrap();
        let error = PublicKeys::load(&file).err().unwrap().to_string();
        assert!(error.ends_with("key.pem is not an Ed25519 public key in PEM form"), "{error}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(PublicKeys::load(empty.path()), Err(AuthError::KeyCount { found: 0, .. })));
}
