//! Models and traces as the commands name them.

use std::path::Path;

use dwcp_prediction::Model;
use dwcp_trainer::retrain::read_model;
use dwcp_trainer::trace::{Part, Trace, read_folder};

use super::args::PartArg;
use crate::problem::{Exit, Problem};

/// The named model file, or the model in this program.
pub fn load(path: Option<&Path>) -> Result<Model, Problem> {
    match path {
        Some(path) => Ok(read_model(path)?),
        None => Model::shipped().map_err(|e| Problem::local(format!("the model in here: {e}"))),
    }
}

/// The traces of a part.
pub fn traces(folder: &Path, part: PartArg) -> Result<Vec<Trace>, Problem> {
    let mut traces = read_folder(folder)?;
    traces.retain(|trace| match part {
        PartArg::Test => trace.part() == Part::Test,
        PartArg::HeldOut => trace.part() == Part::HeldOut,
        PartArg::Fit => trace.part() == Part::Fit,
        PartArg::All => true,
    });
    if traces.is_empty() {
        let folder = folder.display();
        return Err(Problem::new(Exit::NotFound, format!("{folder}: no trace of that part")));
    }
    Ok(traces)
}
