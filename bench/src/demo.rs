use anyhow::Result;
use clap::Args;
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {}
pub(crate) fn run(_: &DemoArgs) -> Result<()> {
    Ok(())
}
