//! What differs between systems: whether there is FUSE, how it is mounted
//! and unmounted. The rest of the crate is the same everywhere.

/// Whether this build can mount.
pub const SUPPORTED: bool = cfg!(any(target_os = "linux", target_os = "freebsd"));

#[cfg(any(target_os = "linux", target_os = "freebsd"))]
pub use fuse::{Mounted, Unmounter, mount};
#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
pub use none::{Mounted, Unmounter, mount};

#[cfg(any(target_os = "linux", target_os = "freebsd"))]
mod fuse {
    use std::io;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};
    use std::sync::{Arc, Mutex, PoisonError};

    use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};

    use crate::folder::Folder;
    use crate::{Entry, Error, Options, Result, check_folder};

    const DEVICE: &str = "/dev/fuse";

    #[cfg(target_os = "linux")]
    const NO_DEVICE: &str = "load it with `modprobe fuse`; a container needs --device /dev/fuse";
    #[cfg(target_os = "freebsd")]
    const NO_DEVICE: &str = "load it with `kldload fusefs`";

    /// What mounts for users other than root, and where it comes from.
    #[cfg(target_os = "linux")]
    const HELPERS: (&[&str], &str) =
        (&["fusermount3", "fusermount"], "install the package fuse3, or mount as root");
    #[cfg(target_os = "freebsd")]
    const HELPERS: (&[&str], &str) = (&["mount_fusefs"], "it is part of the base system");

    /// Threads that answer the kernel: one that waits for a frame to be
    /// decompressed holds up nobody else. fuser has several on Linux only.
    const ANSWERING: usize = if cfg!(target_os = "linux") { 8 } else { 1 };

    /// A mounted folder. Dropped, it is unmounted.
    #[derive(Debug)]
    pub struct Mounted {
        session: Session<Folder>,
        unmounter: Unmounter,
    }

    /// Unmounts from another thread, whenever asked to.
    #[derive(Clone, Debug)]
    pub struct Unmounter {
        dir: PathBuf,
        session: Arc<Mutex<SessionUnmounter>>,
    }

    /// Mounts a folder with these files on `dir`, for the user who runs this
    /// alone. From then on [`Mounted::serve`] must run: who reads waits for it.
    pub fn mount(dir: &Path, entries: Vec<Entry>, options: Options) -> Result<Mounted> {
        check_folder(dir)?;
        let failed = |source| Error::Mount { dir: dir.to_owned(), source };
        // The process may have another working directory by the end.
        let dir = dir.canonicalize().map_err(failed)?;
        if !Path::new(DEVICE).exists() {
            return Err(Error::NoFuse { device: DEVICE, hint: NO_DEVICE });
        }
        let mut config = Config::default();
        config.acl = SessionACL::Owner;
        config.n_threads = Some(ANSWERING);
        config.mount_options = vec![
            MountOption::RO,
            MountOption::NoExec,
            MountOption::NoAtime,
            MountOption::DefaultPermissions,
            // A comma would begin another option.
            MountOption::FSName(options.source.replace([',', '\\', '\n'], "_")),
        ];
        let mut session = match Session::new(Folder::new(entries, options), &dir, &config) {
            Ok(session) => session,
            Err(source) if source.kind() == io::ErrorKind::NotFound && !have_helper() => {
                return Err(Error::NoHelper { helper: HELPERS.0[0], hint: HELPERS.1 });
            }
            Err(source) => return Err(Error::Mount { dir, source: one_line(source) }),
        };
        let unmounter =
            Unmounter { dir, session: Arc::new(Mutex::new(session.unmount_callable())) };
        Ok(Mounted { session, unmounter })
    }

    fn have_helper() -> bool {
        let runs = |name: &&str| {
            let mut command = Command::new(name);
            command.arg("-h").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok()
        };
        HELPERS.0.iter().any(runs)
    }

    /// The helper's message, which ends with a newline.
    fn one_line(e: io::Error) -> io::Error {
        if e.raw_os_error().is_some() {
            return e;
        }
        io::Error::new(e.kind(), e.to_string().trim().replace('\n', "; "))
    }

    impl Mounted {
        /// What unmounts it.
        pub fn unmounter(&self) -> Unmounter {
            self.unmounter.clone()
        }

        /// Answers the kernel until the folder has been unmounted, by an
        /// [`Unmounter`] or by somebody else, and the last file is closed.
        pub fn serve(self) -> Result<()> {
            let Self { session, unmounter } = self;
            match session.run() {
                // What a thread is told that has taken a request just as the
                // kernel shuts the connection down (fuse_dev_do_read in Linux's
                // fs/fuse/dev.c); the others are told ENODEV, which the library
                // takes for the end.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
                ended => ended.map_err(|source| Error::Serve { dir: unmounter.dir, source }),
            }
        }
    }

    impl Unmounter {
        /// Unmounts. Where files are open the folder is gone at once all the
        /// same, and who has them open may read on: [`Mounted::serve`] ends
        /// when they are closed. The answer says whether that is so.
        pub fn unmount(&self) -> Result<bool> {
            let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
            match session.unmount() {
                Ok(()) => Ok(false),
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                    detach(&self.dir).map(|()| true)
                }
                Err(e) => Err(e),
            }
            .map_err(|source| Error::Unmount { dir: self.dir.clone(), source })
        }
    }

    #[cfg(target_os = "linux")]
    fn detach(dir: &Path) -> io::Result<()> {
        Ok(rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn detach(_: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ResourceBusy.into())
    }
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
mod none {
    use std::path::Path;

    use crate::{Entry, Error, Options, Result};

    /// Nothing is ever mounted here.
    #[derive(Debug)]
    pub enum Mounted {}

    /// Nothing is ever mounted here.
    #[derive(Clone, Debug)]
    pub enum Unmounter {}

    /// Fails with [`Error::Unsupported`].
    pub fn mount(_: &Path, _: Vec<Entry>, _: Options) -> Result<Mounted> {
        Err(Error::Unsupported)
    }

    impl Mounted {
        /// What unmounts it.
        pub fn unmounter(&self) -> Unmounter {
            match *self {}
        }

        /// Answers the kernel.
        pub fn serve(self) -> Result<()> {
            match self {}
        }
    }

    impl Unmounter {
        /// Unmounts.
        pub fn unmount(&self) -> Result<bool> {
            match *self {}
        }
    }
}
