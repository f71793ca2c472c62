//! The "newc" archive the kernel unpacks as its first root (Documentation/driver-api/early-userspace/buffer-format.rst).
//! Pure: bytes out, no files in.

const MODE_DIR: u32 = 0o040_755;
const MODE_FILE: u32 = 0o100_755;
const MODE_CHAR: u32 = 0o020_600;
/// Header, names and contents start at multiples of this.
const ALIGN: usize = 4;

/// An archive under construction.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    next_inode: u32,
}

impl Archive {
    /// A directory; parents come first.
    pub fn dir(&mut self, name: &str) {
        self.entry(name, MODE_DIR, (0, 0), &[]);
    }

    /// An executable file.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, MODE_FILE, (0, 0), content);
    }

    /// A character device.
    pub fn char_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, MODE_CHAR, (major, minor), &[]);
    }

    /// Ends the archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.next_inode += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = name.len() as u32 + 1;
        let fields =
            [self.next_inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn layout_is_newc() {
        let mut archive = Archive::default();
        archive.file("a", b"xyz");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[54..62], b"00000003", "file size");
        assert_eq!(&bytes[110..112], b"a\0");
        assert_eq!(&bytes[112..116], b"xyz\0");
        assert_eq!(bytes.len() % ALIGN, 0);
    }

    #[test]
    fn busybox_reads_it() {
        let Ok(mut child) = Command::new("busybox")
            .args(["cpio", "-t"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            return crate::probe::skip("busybox is not installed");
        };
        let mut archive = Archive::default();
        archive.dir("dev");
        archive.char_device("dev/console", 5, 1);
        archive.file("init", &[7; 5000]);
        child.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "dev\ndev/console\ninit\n");
    }
}
