//! The parser's outer loop: which part of the stream comes next, and what is done on trouble.

use crate::error::StreamError;
use crate::layout::*;
use crate::options::Mode;
use crate::ram::Ram;
use crate::run::Run;
use crate::sink::{Mark, RamBlock, Sink};
use crate::tail::TailScanner;

/// Whether a step moved on or needs more input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Go,
    More,
}

/// What comes next in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    FileHeader,
    /// A section type; the configuration may still come (`Start`), may get subsections
    /// (`Configured`), or is behind us.
    Start,
    Configured,
    Sections,
    MemSize {
        left_bytes: u64,
    },
    Ram,
    Bitmap,
    Footer,
    Tail,
    Opaque,
}

/// What a section's body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Ram,
    Bitmap,
    Early,
}

/// The section whose body or footer is being read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Current {
    pub(crate) id: u32,
    pub(crate) body: Body,
    pub(crate) last: bool,
}

/// Parses and rewrites one migration stream, fed in pieces of any size.
///
/// Memory: the block list and nothing else; no call allocates once [`Sink::blocks`] was called.
#[derive(Debug)]
pub struct Parser {
    pub(crate) mode: Mode,
    pub(crate) state: State,
    pub(crate) current: Current,
    /// Section ids of the iterables, from their START.
    pub(crate) ram_section: Option<u32>,
    pub(crate) bitmap_section: Option<u32>,
    pub(crate) ram: Ram,
    skip_left: u64,
    mark_after_skip: Option<Mark>,
    tail: TailScanner,
    /// Bytes of the stream before the current call's input.
    offset: u64,
    failure: Option<StreamError>,
}

impl Parser {
    /// A parser at the first byte of a stream.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            state: State::FileHeader,
            current: Current { id: 0, body: Body::Early, last: false },
            ram_section: None,
            bitmap_section: None,
            ram: Ram::default(),
            skip_left: 0,
            mark_after_skip: None,
            tail: TailScanner::default(),
            offset: 0,
            failure: None,
        }
    }

    /// Parses as much of `input` as is complete and returns how many bytes were consumed. The rest
    /// (fewer than [`LOOKAHEAD_MAX`] bytes) must come again at the front of the next input.
    ///
    /// # Errors
    /// Any [`StreamError`]; it is final, every later call returns it again. In plain mode one that
    /// [`StreamError::is_unsupported`] does not end the stream: the rest passes through opaquely,
    /// after [`Mark::Opaque`], and [`Parser::opaque_because`] has the reason.
    pub fn parse<S: Sink>(&mut self, input: &[u8], sink: &mut S) -> Result<usize, StreamError> {
        if let Some(failure) = self.final_failure() {
            return Err(failure);
        }
        let mut run = Run::new(input, sink);
        loop {
            match self.step(&mut run) {
                Ok(Flow::Go) => {}
                Ok(Flow::More) => break,
                Err(failure) => self.fail(failure, &mut run)?,
            }
        }
        run.flush();
        self.offset += run.pos as u64;
        Ok(run.pos)
    }

    /// The source's RAM blocks; empty before [`Sink::blocks`].
    pub fn blocks(&self) -> &[RamBlock] {
        &self.ram.blocks
    }

    /// Why plain mode stopped parsing, if it did.
    pub fn opaque_because(&self) -> Option<&StreamError> {
        self.failure.as_ref().filter(|_| self.state == State::Opaque)
    }

    /// Whether RAM is complete and only the tail remains.
    pub fn in_tail(&self) -> bool {
        self.state == State::Tail
    }

    fn final_failure(&self) -> Option<StreamError> {
        self.failure.clone().filter(|_| self.state != State::Opaque)
    }

    fn fail<S: Sink>(
        &mut self,
        failure: StreamError,
        run: &mut Run<'_, '_, S>,
    ) -> Result<(), StreamError> {
        self.failure = Some(failure.clone());
        if self.mode == Mode::Plain && failure.is_unsupported() {
            self.state = State::Opaque;
            run.mark(Mark::Opaque);
            return Ok(());
        }
        Err(failure)
    }

    fn step<S: Sink>(&mut self, run: &mut Run<'_, '_, S>) -> Result<Flow, StreamError> {
        if self.skip_left > 0 || self.mark_after_skip.is_some() {
            return Ok(self.skip(run));
        }
        match self.state {
            State::FileHeader => self.file_header(run),
            State::Start | State::Configured | State::Sections => self.section(run),
            State::MemSize { left_bytes } => self.mem_size(left_bytes, run),
            State::Ram => self.ram_records(run),
            State::Bitmap => self.bitmap_chunk(run),
            State::Footer => self.footer(run),
            State::Tail => Ok(self.tail(run)),
            State::Opaque => {
                run.keep(run.rest().len());
                Ok(Flow::More)
            }
        }
    }

    /// The next `bytes` of the stream pass through, then `mark` is due.
    pub(crate) fn skip_then(&mut self, bytes: u64, mark: Option<Mark>) {
        self.skip_left = bytes;
        self.mark_after_skip = mark;
    }

    fn skip<S: Sink>(&mut self, run: &mut Run<'_, '_, S>) -> Flow {
        let here = self.skip_left.min(run.rest().len() as u64);
        run.keep(here as usize);
        self.skip_left -= here;
        if self.skip_left > 0 {
            return Flow::More;
        }
        if let Some(mark) = self.mark_after_skip.take() {
            run.mark(mark);
        }
        Flow::Go
    }

    fn file_header<S: Sink>(&mut self, run: &mut Run<'_, '_, S>) -> Result<Flow, StreamError> {
        let Some(header) = run.rest().first_chunk::<FILE_HEADER_BYTES>() else {
            return Ok(Flow::More);
        };
        let found = u64::from_be_bytes(*header);
        if found != u64::from(FILE_MAGIC) << 32 | u64::from(FILE_VERSION) {
            return Err(StreamError::NotAStream { found });
        }
        run.keep(FILE_HEADER_BYTES);
        self.state = State::Start;
        Ok(Flow::Go)
    }

    fn tail<S: Sink>(&mut self, run: &mut Run<'_, '_, S>) -> Flow {
        match self.tail.scan(run.rest()) {
            Some(end) => {
                run.keep(end);
                run.mark(Mark::StreamEnd);
                Flow::Go
            }
            None => {
                run.keep(run.rest().len());
                Flow::More
            }
        }
    }

    pub(crate) fn direct(&self) -> bool {
        self.mode != Mode::Plain
    }

    /// The stream offset of the cursor.
    pub(crate) fn at<S: Sink>(&self, run: &Run<'_, '_, S>) -> u64 {
        self.offset + run.pos as u64
    }

    pub(crate) fn unexpected<S: Sink>(
        &self,
        what: &'static str,
        value: impl Into<u64>,
        run: &Run<'_, '_, S>,
    ) -> StreamError {
        StreamError::Unexpected { what, value: value.into(), at: self.at(run) }
    }

    pub(crate) fn bounded<S: Sink>(
        &self,
        what: &'static str,
        value: impl Into<u64>,
        max: impl Into<u64>,
        run: &Run<'_, '_, S>,
    ) -> Result<(), StreamError> {
        let (value, max) = (value.into(), max.into());
        if value > max {
            return Err(StreamError::TooLarge { what, value, max, at: self.at(run) });
        }
        Ok(())
    }
}
