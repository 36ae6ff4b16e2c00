//! A Postgres server of our own: made, started, killed, asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::clock::wait_until;
use crate::local::postgres_install::{PostgresInstall, ServerUser};
use crate::local::process::{Process, free_port, log_tail};

/// How long a server may take to accept connections; it may have a crash recovery to do.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The superuser of every server made here.
pub const SUPERUSER: &str = "postgres";

/// A data directory with its server, which may be running or not. It listens on a loopback TCP port that it keeps.
#[derive(Debug)]
pub struct PostgresServer {
    /// Its programs.
    pub install: PostgresInstall,
    data: PathBuf,
    port: u16,
    process: Option<Process>,
    /// The shared memory segment that a killed server left behind; its next start removes it.
    left_segment: Option<String>,
}

impl PostgresServer {
    /// Makes a data directory at `data` (initdb, trust authentication) with these lines in its `postgresql.conf`.
    pub fn create(
        install: PostgresInstall,
        data: &Path,
        settings: &[(&str, &str)],
    ) -> Result<PostgresServer> {
        PostgresServer::create_with(install, data, settings, &[])
    }

    /// The same with further arguments to initdb, as `--wal-segsize=1`.
    pub fn create_with(
        install: PostgresInstall,
        data: &Path,
        settings: &[(&str, &str)],
        initdb: &[&str],
    ) -> Result<PostgresServer> {
        fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
        ServerUser::give(data)?;
        let mut command = install.command("initdb")?;
        command.arg("-D").arg(data).args([
            "-U",
            SUPERUSER,
            "-A",
            "trust",
            "--no-locale",
            "-E",
            "UTF8",
            "-N",
        ]);
        run(command.args(initdb))?;
        let server = PostgresServer::adopt(install, data)?;
        server.configure(settings)?;
        Ok(server)
    }

    /// Takes a data directory that exists, stopped; it will listen on a port of its own.
    pub fn adopt(install: PostgresInstall, data: &Path) -> Result<PostgresServer> {
        ServerUser::give(data)?;
        let (data, port) = (data.to_path_buf(), free_port()?);
        Ok(PostgresServer { install, data, port, process: None, left_segment: None })
    }

    /// Appends settings to `postgresql.conf`; they count from the next start or reload on.
    pub fn configure(&self, settings: &[(&str, &str)]) -> Result<()> {
        let path = self.data.join("postgresql.conf");
        let mut text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for (name, value) in settings {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its server's log.
    pub fn log(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How a client reaches it.
    pub fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user={SUPERUSER} dbname=postgres", self.port)
    }

    /// The postmaster's process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Whether the postmaster runs.
    pub fn is_running(&mut self) -> Result<bool> {
        match &mut self.process {
            Some(process) => Ok(process.ended()?.is_none()),
            None => Ok(false),
        }
    }

    /// Starts it and waits until it accepts connections.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// The same with settings that hold for this run only.
    pub fn start_with(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        self.launch_with(settings)?;
        let name = format!("Postgres {}", self.install.major);
        let port = self.port.to_string();
        let accepting = || {
            let process = self.process.as_mut().expect("it was launched");
            process.check_running()?;
            let mut ready = self.install.command_as_we_are("pg_isready");
            let status =
                ready.args(["-q", "-h", "127.0.0.1", "-p", &port, "-U", SUPERUSER]).status();
            Ok(status.context("cannot run pg_isready")?.success().then_some(()))
        };
        wait_until(START_LIMIT, accepting)?.with_context(|| {
            format!(
                "{name} does not accept connections after {START_LIMIT:?}:\n{}",
                log_tail(&self.log())
            )
        })
    }

    /// Starts it with settings that hold for this run only, and does not wait.
    pub fn launch_with(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        ensure!(!self.is_running()?, "the server in {} runs already", self.data.display());
        let mut command = self.install.command("postgres")?;
        command.arg("-D").arg(&self.data).args(["-p", &self.port.to_string()]);
        // One setting each; the data directory's own file may come from another server's base backup.
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "logging_collector=off",
            // In the data directory: what a killed server leaves goes away with it.
            "dynamic_shared_memory_type=mmap",
        ] {
            command.args(["-c", setting]);
        }
        for (name, value) in settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        let name = format!("Postgres {} in {}", self.install.major, self.data.display());
        self.process = Some(Process::start(&name, &mut command, &self.log())?);
        self.left_segment = None;
        Ok(())
    }

    /// An error with the end of its log when it ended by itself.
    pub fn check_running(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check_running)
    }

    /// Waits until the server ended by itself, and says whether it ended well.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<bool> {
        let process = self.process.as_mut().context("the server was not started")?;
        let status = wait_until(limit, || process.ended())?;
        Ok(status.with_context(|| format!("the server did not end within {limit:?}"))?.success())
    }

    /// Fast shutdown: with a checkpoint, and all WAL sent to its standbys.
    pub fn stop(&mut self) -> Result<()> {
        self.stop_by(Signal::INT)
    }

    /// Immediate shutdown: as a crash, but orderly.
    pub fn stop_immediately(&mut self) -> Result<()> {
        self.stop_by(Signal::QUIT)
    }

    fn stop_by(&mut self, signal: Signal) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.stop(signal).map(|_| ()),
            None => Ok(()),
        }
    }

    /// `kill -9` of the postmaster and all its processes.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill_with_children()?;
        self.left_segment = self.shared_memory_segment();
        Ok(())
    }

    /// The id of its System V shared memory segment: the second number of a line of `postmaster.pid` (PostgreSQL
    /// src/include/utils/pidfile.h, LOCK_FILE_LINE_SHMEM_KEY). A server that stopped has none.
    pub fn shared_memory_segment(&self) -> Option<String> {
        const LINE_SHMEM_KEY: usize = 7;
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let line = text.lines().nth(LINE_SHMEM_KEY - 1)?;
        line.split_whitespace().nth(1).map(String::from)
    }

    /// Runs SQL in one psql session and returns what it printed: rows as lines, columns separated by `|`.
    pub fn sql(&self, sql: &str) -> Result<String> {
        let output = run(&mut self.psql(sql))?;
        Ok(output.trim_end().to_string())
    }

    /// The psql command for `sql`, for who wants to run it beside other work.
    pub fn psql(&self, sql: &str) -> Command {
        let mut command = self.install.command_as_we_are("psql");
        command.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            &self.conninfo(),
            "-c",
            sql,
        ]);
        command
    }

    /// A base backup of the running server in the directory `to`, with the WAL that makes it consistent in `pg_wal`.
    pub fn base_backup(&self, to: &Path) -> Result<()> {
        self.base_backup_with(to, &[])
    }

    /// The same with further arguments to pg_basebackup.
    pub fn base_backup_with(&self, to: &Path, arguments: &[&str]) -> Result<()> {
        fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
        // pg_basebackup keeps the mode of a directory that exists, and a server refuses any but this.
        fs::set_permissions(to, fs::Permissions::from_mode(0o700))
            .context("cannot set permissions")?;
        ServerUser::give(to)?;
        let mut command = self.install.command("pg_basebackup")?;
        command.arg("-D").arg(to).args(["-d", &self.conninfo()]);
        run(command.args(["-c", "fast", "-X", "fetch", "-N"]).args(arguments)).map(drop)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Nobody is left to report to; the processes end anyway when their postmaster is gone.
        let _ = self.kill();
        if let Some(segment) = &self.left_segment {
            let _ = Command::new("ipcrm").args(["-m", segment]).stderr(Stdio::null()).status();
        }
    }
}

/// Runs a command to its end; its output, or an error with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output =
        command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
