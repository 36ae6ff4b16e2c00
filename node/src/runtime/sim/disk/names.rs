//! The directories of a simulated disk: names as they are now, names that survive a crash, and the changes between.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::super::random::Random;
use super::inode::Inode;

/// What a name stands for.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Directory,
    File(Inode),
}

/// One change of names, not known to be durable.
#[derive(Debug, Clone)]
struct Change {
    /// Names that vanish, each with all below it, before `appear` is put in place.
    vanish: Vec<PathBuf>,
    appear: Vec<(PathBuf, Node)>,
}

/// All names of a disk. The root always exists.
#[derive(Debug, Default)]
pub(super) struct Names {
    current: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    pending: Vec<Change>,
}

impl Names {
    pub(super) fn get(&self, path: &Path) -> Option<Node> {
        if path.parent().is_none() {
            return Some(Node::Directory);
        }
        self.current.get(path).cloned()
    }

    /// Makes a name in an existing directory.
    pub(super) fn make(&mut self, path: &Path, node: Node) -> io::Result<()> {
        let parent = path.parent().ok_or(io::ErrorKind::AlreadyExists)?;
        match self.get(parent) {
            Some(Node::Directory) => {}
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        self.change(Change { vanish: Vec::new(), appear: vec![(path.into(), node)] });
        Ok(())
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut ancestors: Vec<&Path> = path.ancestors().collect();
        ancestors.reverse();
        for directory in ancestors {
            match self.get(directory) {
                Some(Node::Directory) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => self.make(directory, Node::Directory)?,
            }
        }
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        match self.get(path) {
            Some(Node::File(_)) => {}
            Some(Node::Directory) => return Err(io::ErrorKind::IsADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        self.change(Change { vanish: vec![path.into()], appear: Vec::new() });
        Ok(())
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        match self.get(path) {
            Some(Node::Directory) => {}
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        self.change(Change { vanish: vec![path.into()], appear: Vec::new() });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if from == to {
            return self.get(from).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let moved: Vec<(PathBuf, Node)> = subtree(&self.current, from)
            .map(|(path, node)| {
                let below = path.strip_prefix(from).expect("a subtree lies below its root");
                let target = if below.as_os_str().is_empty() { to.into() } else { to.join(below) };
                (target, node.clone())
            })
            .collect();
        let Some((_, first)) = moved.first() else { return Err(io::ErrorKind::NotFound.into()) };
        match (first, self.get(to)) {
            (_, None) | (Node::File(_), Some(Node::File(_))) => {}
            (Node::File(_), Some(Node::Directory)) => {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            (Node::Directory, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
        }
        match to.parent().and_then(|parent| self.get(parent)) {
            Some(Node::Directory) => {}
            _ => return Err(io::ErrorKind::NotFound.into()),
        }
        self.change(Change { vanish: vec![from.into(), to.into()], appear: moved });
        Ok(())
    }

    /// Names and kinds directly below a directory, in order.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        match self.get(path) {
            Some(Node::Directory) => {}
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        let children =
            subtree(&self.current, path).filter(|(child, _)| child.parent() == Some(path));
        let named = children.map(|(child, node)| {
            let name = child.file_name().map(|name| name.to_string_lossy().into_owned());
            (name.unwrap_or_default(), matches!(node, Node::Directory))
        });
        Ok(named.collect())
    }

    /// Makes the names directly below a directory durable, and what they rest on.
    pub(super) fn sync_dir(&mut self, path: &Path) {
        let mut wanted: Vec<PathBuf> = Vec::new();
        let mut durable = Vec::new();
        // Backwards: an earlier change of the same name has to be there too.
        for change in std::mem::take(&mut self.pending).into_iter().rev() {
            let names = || change.vanish.iter().chain(change.appear.iter().map(|(name, _)| name));
            let below = names().any(|name| name.parent() == Some(path));
            if below || names().any(|name| wanted.contains(name)) {
                wanted.extend(names().cloned());
                durable.push(change);
            } else {
                self.pending.push(change);
            }
        }
        self.pending.reverse();
        durable.iter().rev().for_each(|change| apply(&mut self.durable, change));
    }

    /// The power went: `keep` in a million changes survive; half the time as a prefix, as a journalling file system
    /// leaves them, else in any combination. A name whose directory is gone is gone.
    pub(super) fn crash(&mut self, random: &mut Random, keep: u64) {
        let prefix = random.chance(500_000);
        for change in std::mem::take(&mut self.pending) {
            if random.chance(keep) {
                apply(&mut self.durable, &change);
            } else if prefix {
                break;
            }
        }
        let all = self.durable.clone();
        let reachable = |path: &Path| {
            path.ancestors().skip(1).all(|directory| {
                directory.parent().is_none() || matches!(all.get(directory), Some(Node::Directory))
            })
        };
        self.durable.retain(|path, _| reachable(path));
        self.current = self.durable.clone();
    }

    /// All files that have a name now or would have one after a crash, each once.
    pub(super) fn files(&self) -> BTreeMap<u64, (PathBuf, Inode)> {
        let mut files = BTreeMap::new();
        let pending = self.pending.iter().flat_map(|change| &change.appear);
        let pending = pending.map(|(path, node)| (path, node));
        for (path, node) in self.current.iter().chain(&self.durable).chain(pending) {
            if let Node::File(inode) = node {
                files.entry(inode.number()).or_insert_with(|| (path.clone(), inode.clone()));
            }
        }
        files
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.current, &change);
        self.pending.push(change);
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: &Change) {
    for root in &change.vanish {
        let gone: Vec<PathBuf> = subtree(names, root).map(|(path, _)| path.clone()).collect();
        gone.iter().for_each(|path| drop(names.remove(path)));
    }
    names.extend(change.appear.iter().cloned());
}

/// A name and all below it.
fn subtree<'a>(
    names: &'a BTreeMap<PathBuf, Node>,
    root: &'a Path,
) -> impl Iterator<Item = (&'a PathBuf, &'a Node)> {
    names.range(root.to_path_buf()..).take_while(move |(path, _)| path.starts_with(root))
}
