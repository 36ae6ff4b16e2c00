//! Finds Postgres on this machine, and the user that it may run as.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use firn_core::types::Lsn;
use rustix::process::geteuid;

use super::postgres::run;

/// Where Debian's packages put a major version's programs.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Users that a server runs as when we are root, in order of preference.
const SERVER_USERS: &[&str] = &["postgres", "nobody"];

/// One installed Postgres.
#[derive(Debug, Clone)]
pub struct PostgresInstall {
    /// Its major version.
    pub major: u32,
    /// Its minor release of that.
    pub minor: u32,
    programs: PathBuf,
    /// Its own libraries, when it does not use the system's.
    libraries: Option<PathBuf>,
}

impl PostgresInstall {
    /// Finds a Postgres of this major version; without one, the newest that Debian installed, else the newest there is.
    ///
    /// Looks into `FIRN_POSTGRES_HOME` (a directory that holds `bin/`), then into `target/postgres/RELEASE` above the running
    /// program, where `./test` puts them, then at Debian's packages.
    pub fn find(major: Option<u32>) -> Result<PostgresInstall> {
        if let Some(folder) = std::env::var_os("FIRN_POSTGRES_HOME") {
            let found = PostgresInstall::at(Path::new(&folder))?;
            if major.is_none_or(|major| major == found.major) {
                return Ok(found);
            }
        }
        let mut found = PostgresInstall::all();
        match major {
            Some(major) => {
                found.retain(|install| install.major == major);
                found.sort_by_key(|install| (install.libraries.is_none(), install.minor));
            }
            None => found.sort_by_key(|install| (install.libraries.is_none(), install.major)),
        }
        found.pop().with_context(|| match major {
            Some(major) => format!(
                "no Postgres {major}: run ./test postgres --versions {major}, or apt-get install postgresql-{major}, \
                 or set FIRN_POSTGRES_HOME to the directory that holds its bin/"
            ),
            None => "no Postgres: apt-get install postgresql, or set FIRN_POSTGRES_HOME to the directory that holds its \
                     bin/"
                .to_string(),
        })
    }

    /// Finds this very minor release.
    pub fn find_release(major: u32, minor: u32) -> Result<PostgresInstall> {
        let mut found = PostgresInstall::all();
        found.retain(|install| (install.major, install.minor) == (major, minor));
        found.pop().with_context(|| {
            format!(
                "no Postgres {major}.{minor}: run ./test oracle --versions {major}.{minor}, which installs it"
            )
        })
    }

    fn all() -> Vec<PostgresInstall> {
        places().iter().filter_map(|place| PostgresInstall::at(place).ok()).collect()
    }

    /// The Postgres whose programs are in `folder/bin`.
    pub fn at(folder: &Path) -> Result<PostgresInstall> {
        let programs = folder.join("bin");
        let own = folder.join("lib");
        let libraries = (!folder.starts_with("/usr") && own.is_dir()).then_some(own);
        let mut install = PostgresInstall { major: 0, minor: 0, programs, libraries };
        let version = install.version()?;
        (install.major, install.minor) = (version / 10_000, version % 10_000);
        Ok(install)
    }

    /// Version in PG_VERSION_NUM form.
    fn version(&self) -> Result<u32> {
        let output = self.command_as_we_are("postgres").arg("--version").output();
        let output =
            output.with_context(|| format!("no postgres in {}", self.programs.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number =
            text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let mut parts = number.unwrap_or_default().split('.').map(str::parse::<u32>);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(major * 10_000 + minor),
            _ => bail!("{}/postgres has the version {text:?}", self.programs.display()),
        }
    }

    /// A command of this Postgres, run as the user that may run a server.
    pub fn command(&self, program: &str) -> Result<Command> {
        let Some(user) = ServerUser::needed()? else { return Ok(self.command_as_we_are(program)) };
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)])
            .args(["--clear-groups", "--"])
            .arg(self.programs.join(program));
        Ok(self.with_libraries(command))
    }

    /// A command of this Postgres, run as the present user: for clients.
    pub fn command_as_we_are(&self, program: &str) -> Command {
        self.with_libraries(Command::new(self.programs.join(program)))
    }

    /// Where WAL after the last checkpoint of a stopped server's data directory begins.
    pub fn redo_location(&self, data: &Path) -> Result<Lsn> {
        let output = run(self.command("pg_controldata")?.arg("-D").arg(data))?;
        let line = output.lines().find(|line| line.contains("REDO location"));
        let lsn = line.and_then(|line| line.split_whitespace().last());
        Ok(lsn.context("pg_controldata shows no REDO location")?.parse()?)
    }

    fn with_libraries(&self, mut command: Command) -> Command {
        // A directory that every user may enter: the server's user may not be allowed into the present one.
        command.current_dir("/");
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }
}

fn places() -> Vec<PathBuf> {
    let own = std::env::current_exe().unwrap_or_default();
    let built =
        own.ancestors().map(|folder| folder.join("postgres")).filter(|folder| folder.is_dir());
    let mut places = Vec::new();
    for folder in built.chain([PathBuf::from(DEBIAN)]) {
        places
            .extend(fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    places.sort();
    places
}

/// A user that servers run as, because Postgres refuses root.
#[derive(Debug, Clone, Copy)]
pub struct ServerUser {
    /// User number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
}

impl ServerUser {
    /// The user to change to; none when we are not root.
    pub fn needed() -> Result<Option<ServerUser>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        let user = |name: &&str| {
            let line = passwd.lines().find(|line| line.split(':').next() == Some(*name))?;
            let mut numbers = line.split(':').skip(2).map(str::parse::<u32>);
            Some(ServerUser { uid: numbers.next()?.ok()?, gid: numbers.next()?.ok()? })
        };
        let found = SERVER_USERS.iter().find_map(user);
        Ok(Some(found.context(
            "Postgres refuses root, and there is no user postgres or nobody to run it as",
        )?))
    }

    /// Gives a file or directory, with all below it, to the server's user; nothing when no change of user is needed.
    pub fn give(path: &Path) -> Result<()> {
        let Some(user) = ServerUser::needed()? else { return Ok(()) };
        let mut open = vec![path.to_path_buf()];
        while let Some(path) = open.pop() {
            std::os::unix::fs::lchown(&path, Some(user.uid), Some(user.gid))
                .with_context(|| format!("cannot give {} to the server's user", path.display()))?;
            if path.is_dir() && !path.is_symlink() {
                let entries = fs::read_dir(&path)
                    .with_context(|| format!("cannot list {}", path.display()))?;
                open.extend(entries.flatten().map(|entry| entry.path()));
            }
        }
        Ok(())
    }
}
