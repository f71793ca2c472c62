//! Names in requests: a QMP socket or a launch file inside a folder that the operator gave. No name
//! leads out of its folder. Looks at the file system, so it runs in a thread that may block.

use std::fs::{self, FileType};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Class, Doing, EngineError, Result};

/// Longest name.
const NAME_BYTES_MAX: usize = 100;
/// Permission bit of a file that anybody may write.
const WORLD_WRITABLE: u32 = 0o002;

/// A folder of which requests may name entries, or why they may not.
#[derive(Debug, Clone)]
pub struct Folder {
    flag: &'static str,
    dir: Option<PathBuf>,
}

impl Folder {
    /// The folder given with `flag`, which must exist.
    ///
    /// # Errors
    /// It is no folder.
    pub fn open(flag: &'static str, dir: Option<&Path>) -> Result<Self> {
        let dir = match dir {
            None => None,
            Some(dir) => {
                let real = dir.canonicalize().doing(|| format!("{flag} {}", dir.display()))?;
                if !real.is_dir() {
                    let text = format!("{flag} {} is no folder", dir.display());
                    return Err(EngineError::new(Class::Usage, text));
                }
                Some(real)
            }
        };
        Ok(Self { flag, dir })
    }

    /// True when the operator gave one.
    pub fn is_given(&self) -> bool {
        self.dir.is_some()
    }

    /// The socket of that name.
    ///
    /// # Errors
    /// A bad name, no such file, or no socket.
    pub fn socket(&self, field: &str, name: &str) -> Result<PathBuf> {
        let (path, _) = self.entry(field, name, "socket", |kind| kind.is_socket())?;
        Ok(path)
    }

    /// The regular file of that name, which only its owner and group may write.
    ///
    /// # Errors
    /// A bad name, no such file, or no such regular file.
    pub fn file(&self, field: &str, name: &str) -> Result<PathBuf> {
        let (path, meta) = self.entry(field, name, "regular file", |kind| kind.is_file())?;
        if meta.permissions().mode() & WORLD_WRITABLE != 0 {
            let text = format!("{field} {name:?}: anybody may write {}", path.display());
            return Err(EngineError::new(Class::Trust, text));
        }
        Ok(path)
    }

    fn entry(
        &self,
        field: &str,
        name: &str,
        wanted: &str,
        is_wanted: impl Fn(&FileType) -> bool,
    ) -> Result<(PathBuf, fs::Metadata)> {
        check_name(field, name)?;
        let Some(dir) = &self.dir else {
            let text = format!("{field} {name:?}: this engine was started without {}", self.flag);
            return Err(EngineError::new(Class::Conflict, text));
        };
        let path = dir.join(name);
        // A link could lead out of the folder, and its target could change after the check.
        let meta = match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let text = format!("{field} {name:?}: no such {wanted} in {}", dir.display());
                return Err(EngineError::new(Class::NotFound, text));
            }
            found => found.doing(|| format!("{field} {name:?}"))?,
        };
        if !is_wanted(&meta.file_type()) {
            let text = format!("{field} {name:?} is no {wanted} (links are not followed)");
            return Err(EngineError::new(Class::Usage, text));
        }
        Ok((path, meta))
    }
}

fn check_name(field: &str, name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let sound = (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(is_plain);
    if sound {
        return Ok(());
    }
    let text = format!(
        "{field} {name:?}: a name of 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' and '-' that begins with no '.'; paths are not allowed"
    );
    Err(EngineError::new(Class::Usage, text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use proptest::prelude::*;

    use super::*;

    fn folder() -> (PathBuf, Folder) {
        let dir = std::env::temp_dir().join(format!("dwcp-names-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&dir).unwrap();
        let folder = Folder::open("--qmp-dir", Some(&dir)).unwrap();
        (dir, folder)
    }

    #[test]
    fn only_plain_sockets_of_the_folder_are_found() {
        let (dir, folder) = folder();
        let _socket = UnixListener::bind(dir.join("vm1.sock")).unwrap();
        fs::write(dir.join("file"), "").unwrap();
        symlink(dir.join("vm1.sock"), dir.join("link")).unwrap();
        assert!(folder.socket("qmp_socket", "vm1.sock").unwrap().ends_with("vm1.sock"));
        let class = |name: &str| folder.socket("qmp_socket", name).unwrap_err().class();
        assert_eq!(class("missing"), Class::NotFound);
        assert_eq!(class("file"), Class::Usage);
        assert_eq!(class("link"), Class::Usage);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_launch_file_that_anybody_may_write_is_not_trusted() {
        let (dir, folder) = folder();
        fs::write(dir.join("vm"), "qemu\n").unwrap();
        fs::set_permissions(dir.join("vm"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(folder.file("launch_profile", "vm").is_ok());
        fs::set_permissions(dir.join("vm"), fs::Permissions::from_mode(0o646)).unwrap();
        assert_eq!(folder.file("launch_profile", "vm").unwrap_err().class(), Class::Trust);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn names_that_are_paths_are_refused_by_name() {
        for wrong in ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\0b", ".hidden", "ä", "a b"] {
            let error = check_name("qmp_socket", wrong).unwrap_err();
            assert_eq!(error.class(), Class::Usage, "{wrong:?}");
            assert!(error.to_string().starts_with("qmp_socket"), "{error}");
        }
        assert!(check_name("f", &"x".repeat(NAME_BYTES_MAX)).is_ok());
        assert!(check_name("f", &"x".repeat(NAME_BYTES_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_name_leads_out_of_its_folder(name in "[./a-z\\\\-]{0,12}") {
            if check_name("f", &name).is_ok() {
                let path = Path::new("/folder").join(&name);
                prop_assert_eq!(path.parent(), Some(Path::new("/folder")));
                prop_assert!(path.file_name().is_some());
            }
        }
    }
}
