//! Everything a forecaster learned, and its file: small, versioned, checked.
//!
//! Pure: bytes in, bytes out, on the caller's thread. Decoding allocates nothing before the bytes that
//! fill it are known to be there, so a hostile file cannot cost more memory than its own length.
//!
//! # Layout, little endian
//! ```text
//! "DWCPPBA\0"  u16 version  u16 zero  u32 length of the body  body  u64 XXH3 of all before
//! body   u16 features  u16 knots  u64 seed  u64 windows fitted on  u16 length  note (UTF-8)
//!        u8 kind used by default
//!        f32 skills[8 kinds][knots]
//!        f32 residuals[last, ewma, mean300][knots][3]
//!        ridge: f32 weights[knots][features + 1]  f32 residuals[knots][3]
//!        trees: f32 shifts[knots][3]  for each knot and quantile: f32 start  u16 trees
//!               for each tree: u8 feature[31]  f32 threshold[31]  f32 leaf[32]
//!        u8 1 if an LSTM follows: f32 means, scales[features]  f32 shifts[knots][3]  f32 head bias[12]
//!               for each layer: f16 weights  f16 bias     f16 head
//! ```

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::baseline::Residuals;
use crate::features::FEATURES;
use crate::forecast::{KNOTS, Kind};
use crate::half;
use crate::lstm::{
    LSTM_GATES, LSTM_LAYERS, LSTM_OUTPUTS, LSTM_UNITS, LstmLayer, LstmWeights, lstm_inputs,
};
use crate::ridge::RidgeWeights;
use crate::trees::{Forest, LEAVES, SPLITS, TREES_MAX, Tree, TreesWeights};

/// First bytes of a model file.
pub const MODEL_MAGIC: [u8; 8] = *b"DWCPPBA\0";
/// Version of the layout and of the meaning of the features: a change of either is a new version.
pub const MODEL_VERSION: u16 = 1;
/// Longest model file in bytes.
pub const MODEL_BYTES_MAX: usize = 8 << 20;
/// Longest note in bytes.
pub const NOTE_BYTES_MAX: usize = 512;
/// Bytes before the body.
const HEAD_BYTES: usize = 16;
/// Bytes of the checksum.
const SUM_BYTES: usize = 8;
/// Learned numbers larger than this are no model but damage.
const NUMBER_MAX: f32 = 1e6;

/// Why bytes are no model. Go on with the model in use, or with EWMA alone; fit again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Not a model file at all.
    #[error("not a model file: it does not begin with DWCPPBA")]
    Magic,
    /// Of another version.
    #[error("model file of version {found}, this build reads {MODEL_VERSION}: fit again")]
    Version {
        /// The file's.
        found: u16,
    },
    /// Longer than a model may be, or than it says.
    #[error("model file of {bytes} bytes where {expected} are expected")]
    Length {
        /// Bytes there are.
        bytes: usize,
        /// Bytes there should be, or may be at most.
        expected: usize,
    },
    /// The checksum does not match: damaged.
    #[error("model file is damaged: the checksum does not match; restore or fit again")]
    Checksum,
    /// A field that cannot be.
    #[error("model file: impossible {what}; fit again")]
    Field {
        /// Which.
        what: &'static str,
    },
}

/// The model that is shipped: `models/internet.pba`.
const SHIPPED: &[u8] = include_bytes!("../models/internet.pba");

/// Fitted weights of every forecaster.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Seed of the training.
    pub seed: u64,
    /// Windows it was fitted on.
    pub windows: u64,
    /// How it was made, for people; at most [`NOTE_BYTES_MAX`] bytes are kept.
    pub note: String,
    /// The single forecaster of least loss on held-out links, for reports; links are answered by the
    /// selector, which starts from `skills`.
    pub default: Kind,
    /// Mean pinball loss on held-out links relative to EWMA's, by kind in the order of [`Kind::ALL`]
    /// and by knot; 0: not measured.
    pub skills: [[f32; KNOTS]; Kind::ALL.len()],
    /// Error quantiles of last value, EWMA and 300 s mean.
    pub residuals: [Residuals; 3],
    /// The linear one.
    pub ridge: Arc<RidgeWeights>,
    /// The trees.
    pub trees: Arc<TreesWeights>,
    /// The network, if one was trained.
    pub lstm: Option<Arc<LstmWeights>>,
}

impl Model {
    /// The model for links across the internet that comes with this crate. How it was made stands in
    /// its note and in `docs/prediction.md`. There is none for datacenter links yet: nothing was
    /// recorded on them.
    ///
    /// # Errors
    /// [`ModelError`]: it was replaced by something else at build time.
    pub fn shipped() -> Result<Self, ModelError> {
        Self::decode(SHIPPED)
    }

    /// A model that has learned nothing: simple forecasters, with intervals as wide as a wild link's.
    /// For a network in training, and for when there is no readable model.
    pub fn bare() -> Self {
        let wide = [-0.7, 0.0, 0.5];
        let forests: [[Forest; 3]; KNOTS] = Default::default();
        let weights = [[0.0; FEATURES + 1]; KNOTS];
        let mut skills = [[0.0; KNOTS]; Kind::ALL.len()];
        skills[Kind::Ewma as usize] = [1.0; KNOTS];
        Self {
            seed: 0,
            windows: 0,
            note: String::new(),
            default: Kind::Ewma,
            skills,
            residuals: [[wide; KNOTS]; 3],
            ridge: Arc::new(RidgeWeights { weights, residuals: [[-2.0, 0.0, 1.5]; KNOTS] }),
            trees: Arc::new(TreesWeights { forests, shifts: [[-2.0, 0.0, 1.5]; KNOTS] }),
            lstm: None,
        }
    }

    /// A bare model with a network.
    pub fn of_lstm(lstm: LstmWeights) -> Self {
        Self { lstm: Some(Arc::new(lstm)), ..Self::bare() }
    }

    /// The network as the file's precision keeps it.
    ///
    /// # Errors
    /// [`ModelError`]: there is none, or its numbers are no numbers any more.
    pub fn reread(&self) -> Result<LstmWeights, ModelError> {
        let model = Self::decode(&self.encode())?;
        let lstm = model.lstm.ok_or(ModelError::Field { what: "mark of the LSTM" })?;
        Ok(lstm.as_ref().clone())
    }

    /// The file's bytes. The network's weights are rounded to half precision: a model that is to be
    /// judged should be decoded from its bytes first.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Writer(Vec::new());
        body.u16(FEATURES as u16);
        body.u16(KNOTS as u16);
        body.0.extend(self.seed.to_le_bytes());
        body.0.extend(self.windows.to_le_bytes());
        let mut note = self.note.as_str();
        while note.len() > NOTE_BYTES_MAX {
            note = &note[..note.floor_char_boundary(NOTE_BYTES_MAX)];
        }
        body.u16(note.len() as u16);
        body.0.extend(note.as_bytes());
        body.0.push(Kind::ALL.iter().position(|&k| k == self.default).unwrap_or(1) as u8);
        body.floats(self.skills.as_flattened());
        self.residuals.iter().for_each(|r| body.floats(r.as_flattened()));
        body.floats(self.ridge.weights.as_flattened());
        body.floats(self.ridge.residuals.as_flattened());
        body.floats(self.trees.shifts.as_flattened());
        self.trees.forests.as_flattened().iter().for_each(|forest| body.forest(forest));
        body.0.push(u8::from(self.lstm.is_some()));
        if let Some(lstm) = &self.lstm {
            body.lstm(lstm);
        }
        let body = body.0;
        let mut bytes = MODEL_MAGIC.to_vec();
        bytes.extend(MODEL_VERSION.to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(body);
        let sum = xxh3_64(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`ModelError`]: another version, damage, or impossible values.
    pub fn decode(bytes: &[u8]) -> Result<Self, ModelError> {
        let mut reader = Reader(open(bytes)?);
        if usize::from(reader.u16()?) != FEATURES || usize::from(reader.u16()?) != KNOTS {
            return Err(ModelError::Field { what: "number of features or horizons" });
        }
        let (seed, windows) = (reader.u64()?, reader.u64()?);
        let length = usize::from(reader.u16()?);
        if length > NOTE_BYTES_MAX {
            return Err(ModelError::Field { what: "length of the note" });
        }
        let note = std::str::from_utf8(reader.take(length)?)
            .map_err(|_| ModelError::Field { what: "note" })?
            .to_owned();
        let kind = Kind::ALL.get(usize::from(reader.u8()?));
        let default = *kind.ok_or(ModelError::Field { what: "default forecaster" })?;
        let skills = reader.table()?;
        let residuals = [reader.table()?, reader.table()?, reader.table()?];
        let ridge = RidgeWeights { weights: reader.table()?, residuals: reader.table()? };
        let shifts = reader.table()?;
        let mut forests: [[Forest; 3]; KNOTS] = Default::default();
        for forest in forests.as_flattened_mut() {
            *forest = reader.forest()?;
        }
        let lstm = match reader.u8()? {
            0 => None,
            1 => Some(Arc::new(reader.lstm()?)),
            _ => return Err(ModelError::Field { what: "mark of the LSTM" }),
        };
        if !reader.0.is_empty() {
            return Err(ModelError::Field { what: "bytes after the end" });
        }
        let trees = Arc::new(TreesWeights { forests, shifts });
        let ridge = Arc::new(ridge);
        Ok(Self { seed, windows, note, default, skills, residuals, ridge, trees, lstm })
    }
}

/// Checks the envelope; the body.
fn open(bytes: &[u8]) -> Result<&[u8], ModelError> {
    if !bytes.starts_with(&MODEL_MAGIC) {
        return Err(ModelError::Magic);
    }
    if bytes.len() > MODEL_BYTES_MAX {
        return Err(ModelError::Length { bytes: bytes.len(), expected: MODEL_BYTES_MAX });
    }
    let mut reader = Reader(&bytes[MODEL_MAGIC.len()..]);
    let found = reader.u16()?;
    if found != MODEL_VERSION {
        return Err(ModelError::Version { found });
    }
    if reader.u16()? != 0 {
        return Err(ModelError::Field { what: "flags" });
    }
    let length = reader.u32()? as usize;
    let expected = HEAD_BYTES.saturating_add(length).saturating_add(SUM_BYTES);
    if bytes.len() != expected {
        return Err(ModelError::Length { bytes: bytes.len(), expected });
    }
    let body = reader.take(length)?;
    if reader.u64()? != xxh3_64(&bytes[..HEAD_BYTES + length]) {
        return Err(ModelError::Checksum);
    }
    Ok(body)
}

struct Writer(Vec<u8>);

impl Writer {
    fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    fn floats(&mut self, values: &[f32]) {
        values.iter().for_each(|value| self.0.extend(value.to_le_bytes()));
    }

    fn halves(&mut self, values: &[f32]) {
        values.iter().for_each(|value| self.u16(half::from_f32(*value)));
    }

    fn forest(&mut self, forest: &Forest) {
        self.floats(&[forest.start]);
        let trees = &forest.trees[..forest.trees.len().min(TREES_MAX)];
        self.u16(trees.len() as u16);
        for tree in trees {
            self.0.extend(tree.features);
            self.floats(&tree.thresholds);
            self.floats(&tree.leaves);
        }
    }

    fn lstm(&mut self, lstm: &LstmWeights) {
        self.floats(&lstm.means);
        self.floats(&lstm.scales);
        self.floats(lstm.shifts.as_flattened());
        self.floats(&lstm.head_bias);
        for layer in &lstm.layers {
            self.halves(&layer.weights);
            self.halves(&layer.bias);
        }
        self.halves(&lstm.head);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], ModelError> {
        let (taken, rest) =
            self.0.split_at_checked(n).ok_or(ModelError::Field { what: "end: it stops short" })?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, ModelError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, ModelError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, ModelError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ModelError> {
        self.array().map(u64::from_le_bytes)
    }

    fn float(&mut self) -> Result<f32, ModelError> {
        sane(f32::from_le_bytes(self.array()?))
    }

    fn row<const N: usize>(&mut self) -> Result<[f32; N], ModelError> {
        let mut row = [0.0; N];
        for value in &mut row {
            *value = self.float()?;
        }
        Ok(row)
    }

    fn table<const N: usize, const M: usize>(&mut self) -> Result<[[f32; N]; M], ModelError> {
        let mut table = [[0.0; N]; M];
        for row in &mut table {
            *row = self.row()?;
        }
        Ok(table)
    }

    /// `n` half-precision numbers; their bytes are taken before anything is allocated for them.
    fn halves(&mut self, n: usize) -> Result<Vec<f32>, ModelError> {
        let bytes = self.take(n * 2)?;
        bytes
            .chunks_exact(2)
            .map(|b| sane(half::to_f32(u16::from_le_bytes([b[0], b[1]]))))
            .collect()
    }

    fn forest(&mut self) -> Result<Forest, ModelError> {
        let start = self.float()?;
        let count = usize::from(self.u16()?);
        if count > TREES_MAX {
            return Err(ModelError::Field { what: "number of trees" });
        }
        let mut trees = Vec::new();
        for _ in 0..count {
            let features = self.array::<SPLITS>()?;
            if features.iter().any(|&f| usize::from(f) >= FEATURES) {
                return Err(ModelError::Field { what: "feature of a tree" });
            }
            let mut thresholds = [0.0; SPLITS];
            for threshold in &mut thresholds {
                // Infinity sends everything left.
                *threshold = f32::from_le_bytes(self.array()?);
                if threshold.is_nan() {
                    return Err(ModelError::Field { what: "threshold of a tree" });
                }
            }
            trees.push(Tree { features, thresholds, leaves: self.row::<LEAVES>()? });
        }
        Ok(Forest { start, trees })
    }

    fn lstm(&mut self) -> Result<LstmWeights, ModelError> {
        let (means, scales) = (self.row()?, self.row()?);
        let (shifts, head_bias) = (self.table()?, self.row()?);
        let mut layers = Vec::with_capacity(LSTM_LAYERS);
        for (i, units) in LSTM_UNITS.into_iter().enumerate() {
            let gates = LSTM_GATES * units;
            let weights = self.halves((lstm_inputs(i) + units) * gates)?;
            layers.push(LstmLayer { weights, bias: self.halves(gates)? });
        }
        let head = self.halves(LSTM_UNITS[LSTM_LAYERS - 1] * LSTM_OUTPUTS)?;
        let layers = layers.try_into().map_err(|_| ModelError::Field { what: "layers" })?;
        Ok(LstmWeights { means, scales, layers, head, head_bias, shifts })
    }
}

fn sane(value: f32) -> Result<f32, ModelError> {
    if value.abs() <= NUMBER_MAX { Ok(value) } else { Err(ModelError::Field { what: "number" }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lstm::tests::some_weights;

    fn some_model() -> Model {
        let mut model = Model::of_lstm(some_weights(5, 0.5));
        model.note = "made in a test".to_owned();
        (model.seed, model.windows, model.default) = (7, 8, Kind::Lstm);
        let mut trees = model.trees.as_ref().clone();
        let tree = Tree {
            features: [3; SPLITS],
            thresholds: [f32::INFINITY; SPLITS],
            leaves: [0.25; LEAVES],
        };
        trees.forests[1][2].trees = vec![tree.clone(), tree];
        model.trees = trees.into();
        model
    }

    /// The checksum made right again after a change.
    fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let end = bytes.len() - SUM_BYTES;
        let sum = xxh3_64(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_file_holds_the_model_but_for_the_networks_last_bits() {
        let model = some_model();
        let once = Model::decode(&model.encode()).expect("our own bytes");
        assert_eq!((once.seed, once.windows, &once.note), (7, 8, &model.note));
        assert_eq!((&once.trees, &once.ridge), (&model.trees, &model.ridge));
        assert_eq!(once.default, Kind::Lstm);
        let (a, b) = (once.lstm.as_ref().expect("there"), model.lstm.as_ref().expect("there"));
        for (a, b) in a.head.iter().zip(&b.head) {
            assert!((a - b).abs() < 1e-3);
        }
        assert_eq!(Model::decode(&once.encode()), Ok(once));
    }

    #[test]
    fn the_shipped_model_is_small_and_whole() {
        assert!(SHIPPED.len() < 1 << 20, "{}", SHIPPED.len());
        let model = Model::shipped().expect("whole");
        assert!(model.lstm.is_some());
        assert!(!model.note.is_empty() && model.windows > 10_000);
    }

    #[test]
    fn other_versions_and_damage_are_named() {
        let bytes = some_model().encode();
        assert_eq!(Model::decode(b"GIF89a..........."), Err(ModelError::Magic));
        assert_eq!(Model::decode(&[]), Err(ModelError::Magic));
        let mut other = bytes.clone();
        other[8] = 2;
        assert_eq!(Model::decode(&resealed(other)), Err(ModelError::Version { found: 2 }));
        let mut flipped = bytes.clone();
        flipped[1_000] ^= 1;
        assert_eq!(Model::decode(&flipped), Err(ModelError::Checksum));
        let short = &bytes[..bytes.len() - 1];
        assert!(matches!(Model::decode(short), Err(ModelError::Length { .. })));
        let mut long = bytes.clone();
        long[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Model::decode(&resealed(long)), Err(ModelError::Length { .. })));
        let mut nan = bytes.clone();
        let ridge = bytes.len() - SUM_BYTES - 8;
        nan[ridge..ridge + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(Model::decode(&resealed(nan)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn hostile_bytes_never_panic(
            places in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<proptest::sample::Index>(), is_cut in any::<bool>(),
        ) {
            let mut bytes = some_model().encode();
            for (place, byte) in places {
                let place = place.index(bytes.len());
                // Sparing the envelope, so that the body is reached.
                if place >= HEAD_BYTES {
                    bytes[place] = byte;
                }
            }
            if is_cut {
                bytes.truncate(HEAD_BYTES + SUM_BYTES + cut.index(bytes.len() - 40));
                let body = (bytes.len() - HEAD_BYTES - SUM_BYTES) as u32;
                bytes[12..16].copy_from_slice(&body.to_le_bytes());
            }
            if let Ok(model) = Model::decode(&resealed(bytes)) {
                let features = crate::Features::of(&[1e6, 2e6, 3e6]).expect("not empty");
                let _ = model.trees.logs(&features);
                prop_assert!(model.lstm.is_none_or(|lstm| lstm.is_well_formed()));
            }
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Model::decode(&bytes);
            let mut envelope = MODEL_MAGIC.to_vec();
            envelope.extend(MODEL_VERSION.to_le_bytes());
            envelope.extend([0; 2]);
            envelope.extend((bytes.len() as u32).to_le_bytes());
            envelope.extend(bytes);
            envelope.extend([0; SUM_BYTES]);
            let _ = Model::decode(&resealed(envelope));
        }
    }
}
