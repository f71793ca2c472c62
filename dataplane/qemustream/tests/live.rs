//! The rewrite against the real target: a running guest moves from one QEMU to another, its RAM
//! through files, the rest as the rewritten skeleton, and arrives whole.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};

use common::qemu::{self, Folder, Qemu};
use dwcp_qemustream::{
    BlockRule, DirectOptions, LOOKAHEAD_MAX, Mark, Mode, PAGE_BYTES, Parser, RamBlock, Sink,
};

const BUFFER_BYTES: usize = 1 << 20;
const MIB: u64 = 1 << 20;
/// A constant, deliberately unlike any device's: the model of an engine that reads in odd pieces.
const READ_BYTES: usize = 65_521;

struct Backend {
    name: &'static str,
    mib: u64,
    target_addr: u64,
    /// Which QEMU arguments use it.
    used_by: &'static [&'static str],
}

/// A guest whose RAM lies in backends that the target shares with us.
struct Guest {
    name: &'static str,
    machine: &'static str,
    memory: &'static [&'static str],
    backends: &'static [Backend],
    /// Guest-physical bytes from 0 that are compared.
    compare_bytes: u64,
}

/// Writes pages into the target's RAM files and the skeleton into its socket.
struct Mover<'i> {
    input: &'i [u8],
    target: &'i UnixStream,
    files: &'i [(String, File)],
    state: &'i mut State,
}

#[derive(Default)]
struct State {
    blocks: Vec<RamBlock>,
    pages: u64,
    zeros: u64,
    rounds: u64,
    marks: Vec<Mark>,
}

impl Mover<'_> {
    fn write(&self, block: u16, index: u64, content: &[u8]) {
        let name = &self.state.blocks[usize::from(block)].name;
        let (_, file) = self.files.iter().find(|(file, _)| file == name).expect("a file");
        file.write_all_at(content, index * PAGE_BYTES as u64).expect("the RAM file takes it");
    }
}

impl Sink for Mover<'_> {
    fn skeleton(&mut self, bytes: &[u8]) {
        self.target.write_all(bytes).expect("the target reads");
    }
    fn blocks(&mut self, blocks: &[RamBlock]) {
        self.state.blocks = blocks.to_vec();
    }
    fn page(&mut self, block: u16, index: u64, at: usize) {
        self.write(block, index, &self.input[at..at + PAGE_BYTES]);
        self.state.pages += 1;
    }
    fn zero(&mut self, block: u16, index: u64) {
        self.write(block, index, &[0; PAGE_BYTES]);
        self.state.zeros += 1;
    }
    fn mark(&mut self, mark: Mark) {
        self.state.rounds += u64::from(mark == Mark::Eos);
        self.state.marks.push(mark);
    }
}

impl Guest {
    fn arguments(&self, folder: &Folder, side: &str) -> Vec<String> {
        let mut arguments = vec!["-bios".to_owned(), folder.path("bios")];
        arguments.extend(["-M", self.machine].map(str::to_owned));
        arguments.extend(self.memory.iter().map(|argument| (*argument).to_owned()));
        for backend in self.backends {
            let (name, mib) = (backend.name, backend.mib);
            let kind = match side {
                "target" => format!("file,share=on,mem-path={}", folder.path(name)),
                _ => "ram".to_owned(),
            };
            let object = format!("memory-backend-{kind},id={name},size={mib}M");
            arguments.extend(["-object".to_owned(), object]);
            arguments.extend(backend.used_by.iter().map(|argument| (*argument).to_owned()));
        }
        arguments
    }

    fn mode(&self) -> Mode {
        let rule = |backend: &Backend| BlockRule::TakeOut { target_addr: backend.target_addr };
        let blocks = self.backends.iter().map(|backend| (backend.name.to_owned(), rule(backend)));
        let others = BlockRule::Keep { target_addr: 0 };
        Mode::Direct(DirectOptions { blocks: blocks.collect(), others })
    }

    /// Moves the guest and returns what was seen and the memory of both ends.
    fn moves(&self) -> (State, [Vec<u8>; 2]) {
        let folder = Folder::new(self.name);
        qemu::dirtying_bios(&folder.path("bios"));
        let files: Vec<_> = self.backends.iter().map(|b| ram_file(&folder, b)).collect();
        let listener = UnixListener::bind(folder.path("relay")).expect("a socket");
        let [mut source, mut target] = ["source", "target"].map(|side| {
            let mut arguments = self.arguments(&folder, side);
            if side == "target" {
                arguments.extend(["-S", "-incoming", "defer"].map(str::to_owned));
            }
            Qemu::start(&folder.path(side), &arguments)
        });
        target.switch_on(&["events", "return-path", "x-ignore-shared"]);
        let incoming = folder.path("incoming");
        target.execute("migrate-incoming", &format!("{{\"uri\": \"unix:{incoming}\"}}"));
        source.switch_on(&["events", "return-path"]);
        // Slow, so that the guest dirties pages between rounds.
        let slow = format!("{{\"downtime-limit\": 1, \"max-bandwidth\": {MIB}}}");
        source.execute("migrate-set-parameters", &slow);
        let relay = folder.path("relay");
        source.execute("migrate", &format!("{{\"uri\": \"unix:{relay}\"}}"));
        let (stream, _) = listener.accept().expect("the source connects");
        let to_target = qemu::connect(&incoming);
        let state = std::thread::scope(|scope| {
            let relay = scope.spawn(|| relay_stream(self.mode(), &stream, &to_target, &files));
            source.wait_for("\"dirty-sync-count\": 3");
            let fast = format!("{{\"downtime-limit\": 2000, \"max-bandwidth\": {}}}", 1 << 30);
            source.execute("migrate-set-parameters", &fast);
            source.wait_for("\"status\": \"completed\"");
            target.wait_for("\"status\": \"completed\"");
            stream.shutdown(std::net::Shutdown::Both).expect("the relay ends");
            relay.join().expect("the relay")
        });
        let memory = [("source", &mut source), ("target", &mut target)].map(|(side, qemu)| {
            qemu.memory(&folder.path(&format!("{side}.memory")), self.compare_bytes)
        });
        (state, memory)
    }
}

fn ram_file(folder: &Folder, backend: &Backend) -> (String, File) {
    let file = File::create(folder.path(backend.name)).expect("a RAM file");
    file.set_len(backend.mib * MIB).expect("room");
    (backend.name.to_owned(), file)
}

/// What an engine does, in one thread: parse, write pages, pass the skeleton; and the way back.
fn relay_stream(
    mode: Mode,
    source: &UnixStream,
    target: &UnixStream,
    files: &[(String, File)],
) -> State {
    std::thread::scope(|scope| {
        scope.spawn(|| std::io::copy(&mut { target }, &mut { source }));
        let mut parser = Parser::new(mode);
        let (mut state, mut buffer, mut filled) = (State::default(), vec![0; BUFFER_BYTES], 0);
        loop {
            let end = (filled + READ_BYTES).min(BUFFER_BYTES);
            let read = { source }.read(&mut buffer[filled..end]).unwrap_or(0);
            if read == 0 {
                let _ = target.shutdown(std::net::Shutdown::Both);
                return state;
            }
            filled += read;
            let input = &buffer[..filled];
            let mut mover = Mover { input, target, files, state: &mut state };
            let consumed = parser.parse(input, &mut mover).expect("a stream we can rewrite");
            buffer.copy_within(consumed..filled, 0);
            filled -= consumed;
            assert!(filled < LOOKAHEAD_MAX);
        }
    })
}

fn check(guest: &Guest) {
    if let Some(reason) = qemu::missing() {
        eprintln!("SKIPPED {}: {reason}", guest.name);
        return;
    }
    let (state, [source, target]) = guest.moves();
    assert!(state.rounds > 3, "one pass is no live migration: {} EOS", state.rounds);
    assert!(state.pages > 112 * 2, "{} pages moved", state.pages);
    assert!(state.zeros > 1000, "{} zero pages", state.zeros);
    assert!(state.marks.ends_with(&[Mark::RamEnd, Mark::StreamEnd]), "{:?}", state.marks);
    assert_eq!(source.len() as u64, guest.compare_bytes);
    assert!(source[0x20000] != 0 || source[0x20001] != 0, "the guest ran");
    let differs = source.iter().zip(&target).position(|(ours, theirs)| ours != theirs);
    assert_eq!(differs, None, "memory differs at this address");
}

#[test]
fn a_pc_with_one_block_arrives_whole() {
    check(&Guest {
        name: "pc",
        machine: "pc,memory-backend=pc.ram",
        memory: &["-m", "32"],
        backends: &[Backend { name: "pc.ram", mib: 32, target_addr: 0, used_by: &[] }],
        compare_bytes: 32 * MIB,
    });
}

/// Guest-physical memory has no holes here, so the second node lies behind the first; its
/// `mr->addr` is the sum of the sizes before it.
#[test]
fn a_q35_with_two_nodes_and_vram_arrives_whole() {
    check(&Guest {
        name: "q35-nodes",
        machine: "q35",
        memory: &["-m", "48", "-smp", "2", "-device", "VGA,romfile=,vgamem_mb=1"],
        backends: &[
            Backend {
                name: "node0",
                mib: 16,
                target_addr: 0,
                used_by: &["-numa", "node,nodeid=0,memdev=node0,cpus=0"],
            },
            Backend {
                name: "node1",
                mib: 32,
                target_addr: 16 * MIB,
                used_by: &["-numa", "node,nodeid=1,memdev=node1,cpus=1"],
            },
        ],
        compare_bytes: 48 * MIB,
    });
}

/// A DIMM's `mr->addr` is its offset in the machine's device memory.
#[test]
fn a_q35_with_dimms_arrives_whole() {
    check(&Guest {
        name: "q35-dimms",
        machine: "q35,memory-backend=ram0",
        memory: &["-m", "32M,slots=2,maxmem=1G"],
        backends: &[
            Backend { name: "ram0", mib: 32, target_addr: 0, used_by: &[] },
            Backend {
                name: "dimm0",
                mib: 128,
                target_addr: 0,
                used_by: &["-device", "pc-dimm,memdev=dimm0"],
            },
            Backend {
                name: "dimm1",
                mib: 128,
                target_addr: 128 * MIB,
                used_by: &["-device", "pc-dimm,memdev=dimm1"],
            },
        ],
        compare_bytes: 32 * MIB,
    });
}
