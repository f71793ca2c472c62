#!/usr/bin/env bash
# Records small migration streams from real QEMUs into streams/, for the tests to replay.
#
#   record-streams.sh [--keep DIR]
#
# Each case runs a source and a target of the same version and a relay between them that writes down
# both directions of every connection; a case counts only if the target reports "completed".
# QEMU 10 is the installed one. QEMU 7.2 is unpacked from Debian bookworm into a temporary folder.
# Guests have a 64 KiB BIOS of our own instead of SeaBIOS: it halts, or dirties 112 pages for ever.
# Needs: qemu-system-x86_64 (10.x), python3, zstd, apt-get (for 7.2), about 1 GiB under $TMPDIR.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=$here/streams
work=$(mktemp -d)
keep=
[ "${1:-}" = --keep ] && keep=$2
trap 'rm -rf "$work"' EXIT

# 7.2, beside the installed version: its own binary and modules, the installed firmware.
qemu72=1:7.2+dfsg-7+deb12u18+b3
(
    mkdir -p "$work/deb" && cd "$work/deb"
    apt-get -qq -o APT::Sandbox::User=root download \
        "qemu-system-x86=$qemu72" "qemu-system-common=$qemu72"
    for package in ./*.deb; do dpkg -x "$package" "$work/qemu72"; done
)

cat > "$work/record.py" <<'PYTHON'
import json, os, socket, struct, subprocess, sys, threading, time

WORK, OUT = sys.argv[1], sys.argv[2]
MODULES = f"{WORK}/qemu72/usr/lib/x86_64-linux-gnu/qemu"
BINARIES = {
    "10": ("qemu-system-x86_64", {}),
    "7.2": (f"{WORK}/qemu72/usr/bin/qemu-system-x86_64", {"QEMU_MODULE_DIR": MODULES}),
}
DEADLINE_S = 30
# Slow enough that the first pass outlasts QEMU's first measure of bandwidth (100 ms): before it
# QEMU would complete after one round.
SLOW = {"downtime-limit": 1, "max-bandwidth": 1 << 20}
FAST = {"downtime-limit": 2000, "max-bandwidth": 1 << 30}


def bios(path, program):
    image = bytearray(64 << 10)
    image[0xF000 : 0xF000 + len(program)] = program
    image[0xFFF0:0xFFF5] = bytes.fromhex("ea00f000f0")  # jmp f000:f000
    open(path, "wb").write(image)


def seed(path, mib, step):
    """RAM with something in it: every step-th page holds its own number."""
    with open(path, "wb") as ram:
        for page in range(mib << 8):
            ram.write(struct.pack("<Q", page + 1) * 512 if page % step == 0 else bytes(4096))


class Qmp:
    def __init__(self, path):
        end = time.time() + DEADLINE_S
        self.socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.socket.connect(path)
                break
            except OSError:
                if time.time() > end:
                    raise
                time.sleep(0.05)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            reply = json.loads(self.file.readline())
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]


class Relay:
    """Connects what the source opens to the target and keeps what passed."""

    def __init__(self, path, target):
        self.target, self.connections = target, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(16)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            source, _ = self.listener.accept()
            target = socket.socket(socket.AF_UNIX)
            target.connect(self.target)
            record = (bytearray(), bytearray())
            self.connections.append(record)
            for reader, writer, into in ((source, target, record[0]), (target, source, record[1])):
                threading.Thread(target=self.pump, args=(reader, writer, into), daemon=True).start()

    @staticmethod
    def pump(reader, writer, into):
        while data := reader.recv(1 << 16):
            into += data
            try:
                writer.sendall(data)
            except OSError:
                return
        try:
            writer.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def wait(qmp, *wanted):
    end = time.time() + DEADLINE_S
    while (status := qmp("query-migrate").get("status")) not in wanted:
        if status == "failed" or time.time() > end:
            raise RuntimeError(f"migration {status}: {qmp('query-migrate').get('error-desc')}")
        time.sleep(0.02)


def rounds(qmp, count):
    end = time.time() + DEADLINE_S
    while qmp("query-migrate").get("ram", {}).get("dirty-sync-count", 0) < count:
        if time.time() > end:
            raise RuntimeError(f"no further round: {qmp('query-migrate')}")
        time.sleep(0.02)


def record(name, version, arguments, capabilities=(), running=False, setup=(), parameters={}, postcopy=False):
    folder = f"{WORK}/{name}"
    os.mkdir(folder)
    binary, environment = BINARIES[version]
    common = ["-nodefaults", "-display", "none", "-accel", "tcg", "-bios", f"{WORK}/{'dirty' if running else 'halt'}.bios"]
    common += ["-L", "/usr/share/qemu", "-L", "/usr/share/seabios", *arguments]
    qemus, monitors = [], []
    try:
        for side, extra in (("source", [] if running else ["-S"]), ("target", ["-S", "-incoming", "defer"])):
            command = [binary, *(a.replace("SIDE", side) for a in common), *extra, "-qmp", f"unix:{folder}/{side}.qmp,server=on,wait=off"]
            qemus.append(subprocess.Popen(command, env={**os.environ, **environment}))
        monitors = [Qmp(f"{folder}/{side}.qmp") for side in ("source", "target")]
        migrate(folder, *monitors, capabilities, running, setup, parameters, postcopy)
        return save(name, relay_of[folder])
    finally:
        for qemu in qemus:
            qemu.kill()
            qemu.wait()


relay_of = {}


def migrate(folder, source, target, capabilities, running, setup, parameters, postcopy):
    for command, values in setup:
        source(command, **values)
    switches = [{"capability": c, "state": True} for c in ("events", *capabilities)]
    for side in (source, target):
        side("migrate-set-capabilities", capabilities=switches)
        side("migrate-set-parameters", **{k: v for k, v in parameters.items() if k.startswith("multifd")})
    target("migrate-incoming", uri=f"unix:{folder}/target.sock")
    relay_of[folder] = Relay(f"{folder}/source.sock", f"{folder}/target.sock")
    if running:
        source("migrate-set-parameters", **SLOW)
    source("migrate-set-parameters", **parameters)
    source("migrate", uri=f"unix:{folder}/source.sock")
    if running:
        rounds(source, 5)
        if postcopy:
            source("migrate-start-postcopy")
        source("migrate-set-parameters", **FAST)
    for side in (source, target):
        wait(side, "completed")
    time.sleep(0.2)


def save(name, relay):
    channels = 0
    for sent, answered in relay.connections:
        if sent[:4] == b"QEVM":
            files = {f"{name}.main": sent, f"{name}.return": answered}
        else:
            files = {f"{name}.channel{channels}": sent}
            channels += 1
        for file, content in files.items():
            if content:
                open(f"{OUT}/{file}", "wb").write(content)
    print(f"{name}: {[len(sent) for sent, _ in relay.connections]} bytes")


def memory_file(ident, mib, step, name=None):
    """A RAM backend of a source and target of their own, the same content in the source."""
    for side in ("source", "target"):
        seed(f"{WORK}/{ident}.{side}", mib, step if side == "source" else 1 << 30)
    return f"memory-backend-file,id={name or ident},size={mib}M,share=off,mem-path={WORK}/{ident}.SIDE"


# Real mode: invlpg [0]; inc word [0] of each page from 0x20000 to 0x90000, for ever. Without invlpg
# QEMU 7.2's TCG misses writes after the second round.
DIRTY = bytes.fromhex("b80020 8ed8 0f013e0000 ff060000 050001 3d0090 72ed ebe8")
bios(f"{WORK}/halt.bios", bytes.fromhex("f4ebfd"))
bios(f"{WORK}/dirty.bios", DIRTY)

one = ["-m", "32", "-object", memory_file("one", 32, 37, "ram0")]
two = ["-m", "48", "-smp", "2"]
for node in (0, 1):
    two += ["-object", memory_file(f"node{node}", 24, 41 + node), "-numa", f"node,nodeid={node},memdev=node{node},cpus={node}"]
vram = ["-m", "16", "-device", "VGA,romfile=,vgamem_mb=1"]
rp = ("return-path",)

for version in ("10", "7.2"):
    v = "qemu" + version.replace(".", "")
    ack = rp if version == "7.2" else (*rp, "switchover-ack")
    record(f"{v}-pc-one-block", version, ["-M", "pc,memory-backend=ram0", *one], rp)
    record(f"{v}-pc-vga-dirtying", version, ["-M", "pc", *vram], ack, running=True)
    record(f"{v}-q35-two-nodes", version, ["-M", "q35", *two], rp)
    record(f"{v}-q35-dirtying", version, ["-M", "q35", "-m", "16", "-uuid", "d1c2b3a4-0000-4000-8000-000000000001"], (*ack, "validate-uuid"), running=True)
    record(f"{v}-pc-xbzrle", version, ["-M", "pc", "-m", "16"], (*rp, "xbzrle"), running=True)
    record(f"{v}-pc-multifd", version, ["-M", "pc,memory-backend=ram0", *one, "-device", "VGA,romfile=,vgamem_mb=1"], (*rp, "multifd"), parameters={"multifd-channels": 2})
    record(f"{v}-pc-multifd-dirtying", version, ["-M", "pc", "-m", "16"], (*rp, "multifd"), running=True, parameters={"multifd-channels": 2})
    disk = ["-blockdev", "null-co,node-name=disk,size=67108864,read-zeroes=on"]
    bitmaps = [("block-dirty-bitmap-add", {"node": "disk", "name": f"bitmap{n}", "granularity": 65536}) for n in (0, 1)]
    record(f"{v}-pc-dirty-bitmap", version, ["-M", "pc", "-m", "16", *disk], (*rp, "dirty-bitmaps"), setup=bitmaps)
    record(f"{v}-pc-postcopy", version, ["-M", "pc", "-m", "16"], (*rp, "postcopy-ram"), running=True, postcopy=True)

hotplug = ["-m", "32M,slots=2,maxmem=1G", "-object", "memory-backend-ram,id=dimm,size=128M", "-device", "pc-dimm,memdev=dimm"]
virtio_mem = ["-object", "memory-backend-ram,id=vmem,size=64M", "-device", "virtio-mem-pci,id=vm0,memdev=vmem,requested-size=0"]
record("qemu10-q35-dimm-virtio-mem", "10", ["-M", "q35", *hotplug, *virtio_mem], rp)
record("qemu72-pc-compress", "7.2", ["-M", "pc,memory-backend=ram0", *one], (*rp, "compress"))
record("qemu10-pc-ignore-shared", "10", ["-M", "pc", "-m", "16"], (*rp, "x-ignore-shared"))
PYTHON

mkdir -p "$work/out"
python3 "$work/record.py" "$work" "$work/out"
[ -n "$keep" ] && cp "$work"/out/* "$keep"
rm -rf "$out" && mkdir -p "$out"
for file in "$work"/out/*; do
    zstd -q -19 --ultra --long=27 "$file" -o "$out/$(basename "$file").zst"
done
du -sh "$out"
