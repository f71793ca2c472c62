//! Takes the ELF kernel out of a compressed x86 image: QEMU starts it directly (PVH), which saves the
//! guest's own decompression, seconds under emulation. Pure.
//! Layout: Documentation/arch/x86/boot.rst.

use anyhow::{Context, Result, bail};

const SECTOR_BYTES: usize = 512;
const SETUP_SECTS_AT: usize = 0x1f1;
const MAGIC_AT: usize = 0x202;
const PAYLOAD_OFFSET_AT: usize = 0x248;
const PAYLOAD_LENGTH_AT: usize = 0x24c;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Largest kernel accepted, so that a bad length allocates nothing absurd.
const KERNEL_BYTES_MAX: usize = 512 << 20;

fn le32(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image.get(at..at + 4).context("the kernel image is cut short")?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
}

/// The uncompressed ELF kernel. Only zstd images are understood, as Debian builds them.
///
/// # Errors
/// Another format; the caller then boots the image as it is.
pub fn extract_elf(image: &[u8]) -> Result<Vec<u8>> {
    if image.get(MAGIC_AT..MAGIC_AT + 4) != Some(b"HdrS") {
        bail!("no x86 kernel image");
    }
    let setup = match image[SETUP_SECTS_AT] {
        0 => 4,
        n => usize::from(n),
    };
    let start = (setup + 1) * SECTOR_BYTES + le32(image, PAYLOAD_OFFSET_AT)?;
    let length = le32(image, PAYLOAD_LENGTH_AT)?;
    let end = start.checked_add(length).context("bad payload length")?;
    let payload = image.get(start..end).context("the payload lies outside of the image")?;
    if !payload.starts_with(&ZSTD_MAGIC) || payload.len() < 8 {
        bail!("the kernel is not compressed with zstd");
    }
    // The build appends the uncompressed size as 4 bytes (scripts/Makefile.lib, size_append).
    let (frame, size) = payload.split_at(payload.len() - 4);
    let size = le32(size, 0)?;
    if size > KERNEL_BYTES_MAX {
        bail!("a kernel of {size} bytes is not plausible");
    }
    let mut elf = Vec::with_capacity(size);
    zstd_safe::decompress(&mut elf, frame)
        .map_err(|code| anyhow::anyhow!("zstd: {}", zstd_safe::get_error_name(code)))?;
    if !elf.starts_with(b"\x7fELF") {
        bail!("the payload is no ELF file");
    }
    Ok(elf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(elf: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(zstd_safe::compress_bound(elf.len()));
        zstd_safe::compress(&mut frame, elf, 3).unwrap();
        frame.extend_from_slice(&(elf.len() as u32).to_le_bytes());
        let mut image = vec![0u8; 2 * SECTOR_BYTES + 64];
        image[SETUP_SECTS_AT] = 1;
        image[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET_AT..PAYLOAD_OFFSET_AT + 4].copy_from_slice(&64u32.to_le_bytes());
        image[PAYLOAD_LENGTH_AT..PAYLOAD_LENGTH_AT + 4]
            .copy_from_slice(&(frame.len() as u32).to_le_bytes());
        image.extend_from_slice(&frame);
        image
    }

    #[test]
    fn the_elf_comes_back() {
        let elf = [b"\x7fELF".as_slice(), &[9; 10_000]].concat();
        assert_eq!(extract_elf(&image(&elf)).unwrap(), elf);
        assert!(extract_elf(&image(b"MZ no kernel")).is_err());
    }

    proptest! {
        #[test]
        fn hostile_images_never_panic(at in 0usize..1200, byte: u8, cut in 0usize..1200) {
            let mut bytes = image(&[b"\x7fELF".as_slice(), &[9; 500]].concat());
            let last = bytes.len() - 1;
            bytes[at.min(last)] = byte;
            bytes.truncate(cut.max(1));
            let _ = extract_elf(&bytes);
        }
    }
}
