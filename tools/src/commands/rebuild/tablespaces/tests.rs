use super::*;

fn mapping(old: &str, new: &str) -> TablespaceMapping {
    TablespaceMapping { old: old.into(), new: new.into() }
}

#[test]
fn mappings_as_pg_basebackup_takes_them() {
    assert_eq!("/a=/b".parse(), Ok(mapping("/a", "/b")));
    assert_eq!(r"/a\=1/=/b\=2".parse(), Ok(mapping("/a=1", "/b=2")));
    for wrong in ["", "/a", "a=/b", "/a=b", "/a=/b=/c"] {
        assert!(wrong.parse::<TablespaceMapping>().is_err(), "{wrong}");
    }
}

#[test]
fn maps_with_escaped_characters() {
    let map = "16384 /fast disk\n16385 /a\\\nb\\\\c\n";
    let expected = [("16384", "/fast disk"), ("16385", "/a\nb\\c")];
    let expected = expected.map(|(oid, path)| (oid.to_string(), PathBuf::from(path)));
    assert_eq!(parse_map(map).unwrap(), expected);
    assert!(parse_map("16384\n").is_err());
    assert!(parse_map("16384 relative\n").is_err());
}

#[test]
fn a_place_is_named_for_what_belongs_to_the_backup() {
    let folder = tempfile::tempdir().unwrap();
    let (base, space) = (folder.path().join("base"), folder.path().join("space"));
    fs::create_dir_all(base.join(LINKS)).unwrap();
    fs::create_dir(&space).unwrap();
    fs::write(base.join("PG_VERSION"), "17").unwrap();
    let found = Base::find(&base).unwrap();
    assert!(plan(&found, &[]).unwrap().is_empty());
    symlink(&space, base.join(LINKS).join("16384")).unwrap();
    let refused = plan(&found, &[]).unwrap_err().to_string();
    assert!(refused.contains("--tablespace-mapping"), "{refused}");
    let new = folder.path().join("new");
    let mapped = TablespaceMapping { old: space.clone(), new: new.clone() };
    assert_eq!(plan(&found, std::slice::from_ref(&mapped)).unwrap()[0].to, new);
    let unknown = mapping("/nowhere", "/new");
    assert!(plan(&found, &[mapped.clone(), unknown]).is_err());
    fs::create_dir(&new).unwrap();
    fs::write(new.join("file"), "").unwrap();
    assert!(plan(&found, &[mapped]).is_err(), "the place is not empty");
}
