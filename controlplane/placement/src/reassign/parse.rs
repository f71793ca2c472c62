//! The challenge's text format: whitespace-separated integers. Line breaks have no meaning, except
//! that an error names the line.

use super::error::{ModelError, ParseError};
use super::model::{Assignment, Balance, Model, Weights, bounds};

/// Reads a model file.
///
/// # Errors
/// Line and field of the first number that is missing, malformed or out of bounds; or, for what only
/// shows in the whole, the last line and the rule that is broken.
pub fn parse_model(text: &str) -> Result<Model, ParseError> {
    let mut tokens = Tokens::new(text);
    let model = model(&mut tokens)?;
    tokens.end("after the weights")?;
    model.checked().map_err(|error| tokens.whole(&error))
}

/// Reads an assignment file for a model: one machine per process.
///
/// # Errors
/// Line and process of the first number that is missing, malformed or names no machine.
pub fn parse_assignment(model: &Model, text: &str) -> Result<Assignment, ParseError> {
    let mut tokens = Tokens::new(text);
    let mut assignment = Vec::new();
    for process in 0..model.processes() {
        let field = || format!("machine of process {process}");
        assignment.push(tokens.index(model.machines(), "machines", field)?);
    }
    tokens.end("after the last process")?;
    Ok(assignment)
}

fn model(t: &mut Tokens<'_>) -> Result<Model, ParseError> {
    let resources = t.count(bounds::RESOURCES_MAX, "number of resources")?;
    let (mut transient, mut load_weight) = (Vec::new(), Vec::new());
    for r in 0..resources {
        transient
            .push(t.index(2, "values (0 or 1)", || format!("transience of resource {r}"))? == 1);
        load_weight.push(t.amount(|| format!("load weight of resource {r}"))?);
    }
    let machines = t.count(bounds::MACHINES_MAX, "number of machines")?;
    let (mut neighbourhood, mut location) = (Vec::new(), Vec::new());
    let (mut capacity, mut safety, mut machine_move) = (Vec::new(), Vec::new(), Vec::new());
    for m in 0..machines {
        neighbourhood.push(t.name(|| format!("neighbourhood of machine {m}"))?);
        location.push(t.name(|| format!("location of machine {m}"))?);
        for r in 0..resources {
            capacity.push(t.amount(|| format!("capacity of resource {r} of machine {m}"))?);
        }
        for r in 0..resources {
            safety.push(t.amount(|| format!("safety capacity of resource {r} of machine {m}"))?);
        }
        for to in 0..machines {
            machine_move.push(t.amount(|| format!("move cost from machine {m} to {to}"))?);
        }
    }
    let (spread_min, dependencies) = services(t)?;
    let processes = t.count(bounds::PROCESSES_MAX, "number of processes")?;
    let (mut service, mut requirement, mut process_move) = (Vec::new(), Vec::new(), Vec::new());
    for p in 0..processes {
        service.push(t.index(spread_min.len(), "services", || format!("service of process {p}"))?);
        for r in 0..resources {
            requirement.push(t.amount(|| format!("requirement of resource {r} of process {p}"))?);
        }
        process_move.push(t.amount(|| format!("move cost of process {p}"))?);
    }
    let balances = balances(t, resources)?;
    let weights = Weights {
        process: t.amount(|| "weight of process moves".to_owned())?,
        service: t.amount(|| "weight of service moves".to_owned())?,
        machine: t.amount(|| "weight of machine moves".to_owned())?,
    };
    Ok(Model {
        transient,
        load_weight,
        neighbourhood,
        location,
        capacity,
        safety,
        machine_move,
        spread_min,
        dependencies,
        service,
        requirement,
        process_move,
        balances,
        weights,
    })
}

fn services(t: &mut Tokens<'_>) -> Result<(Vec<u32>, Vec<Vec<u32>>), ParseError> {
    let services = t.count(bounds::SERVICES_MAX, "number of services")?;
    let (mut spread_min, mut dependencies) = (Vec::new(), Vec::new());
    for s in 0..services {
        spread_min.push(t.name(|| format!("spread of service {s}"))?);
        let count = t.index(services + 1, "services", || format!("dependencies of service {s}"))?;
        let mut list = Vec::new();
        for d in 0..count {
            list.push(t.index(services, "services", || format!("dependency {d} of service {s}"))?);
        }
        dependencies.push(list);
    }
    Ok((spread_min, dependencies))
}

fn balances(t: &mut Tokens<'_>, resources: usize) -> Result<Vec<Balance>, ParseError> {
    let count = t.count(bounds::BALANCES_MAX, "number of balance costs")?;
    let mut balances = Vec::new();
    for b in 0..count {
        balances.push(Balance {
            first: t.index(resources, "resources", || format!("first resource of balance {b}"))?,
            second: t
                .index(resources, "resources", || format!("second resource of balance {b}"))?,
            target: t.amount(|| format!("target of balance {b}"))?,
            weight: t.amount(|| format!("weight of balance {b}"))?,
        });
    }
    Ok(balances)
}

/// Numbers of a text, with the line each stands in.
struct Tokens<'a> {
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
    words: std::str::SplitAsciiWhitespace<'a>,
    line: usize,
}

impl<'a> Tokens<'a> {
    fn new(text: &'a str) -> Self {
        Self { lines: text.lines().enumerate(), words: "".split_ascii_whitespace(), line: 0 }
    }

    fn word(&mut self) -> Option<&'a str> {
        loop {
            if let Some(word) = self.words.next() {
                return Some(word);
            }
            let Some((line, text)) = self.lines.next() else {
                self.line += 1;
                return None;
            };
            self.line = line + 1;
            self.words = text.split_ascii_whitespace();
        }
    }

    fn fail(&self, field: String, problem: String) -> ParseError {
        ParseError { line: self.line, field, problem }
    }

    fn whole(&self, error: &ModelError) -> ParseError {
        self.fail("the whole instance".to_owned(), error.to_string())
    }

    fn number(&mut self, field: impl Fn() -> String) -> Result<u64, ParseError> {
        let Some(word) = self.word() else {
            return Err(self.fail(field(), "the text ends here; a number is missing".to_owned()));
        };
        word.parse().map_err(|_| {
            let shown: String = word.chars().take(40).collect();
            self.fail(field(), format!("`{shown}` is not a whole number of 0 or more below 2^64"))
        })
    }

    fn amount(&mut self, field: impl Fn() -> String) -> Result<i64, ParseError> {
        let number = self.number(&field)?;
        match i64::try_from(number) {
            Ok(amount) if i128::from(amount) <= bounds::SUM_MAX => Ok(amount),
            _ => Err(self.fail(field(), format!("{number} is above 2^53: scale the units down"))),
        }
    }

    fn name(&mut self, field: impl Fn() -> String) -> Result<u32, ParseError> {
        let number = self.number(&field)?;
        u32::try_from(number).map_err(|_| self.fail(field(), format!("{number} is above 2^32 - 1")))
    }

    fn index(
        &mut self,
        count: usize,
        of: &str,
        field: impl Fn() -> String,
    ) -> Result<u32, ParseError> {
        let number = self.number(&field)?;
        match u32::try_from(number) {
            Ok(index) if (index as usize) < count => Ok(index),
            _ => Err(self.fail(field(), format!("{number} is too high: there are {count} {of}"))),
        }
    }

    fn count(&mut self, max: usize, field: &str) -> Result<usize, ParseError> {
        let number = self.number(|| field.to_owned())?;
        match usize::try_from(number) {
            Ok(count) if count <= max => Ok(count),
            _ => Err(self.fail(field.to_owned(), format!("{number} is above the limit of {max}"))),
        }
    }

    fn end(&mut self, place: &str) -> Result<(), ParseError> {
        match self.word() {
            None => Ok(()),
            Some(_) => Err(self.fail(place.to_owned(), "more numbers than expected".to_owned())),
        }
    }
}
