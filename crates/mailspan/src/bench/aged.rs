//! A store with a past: events of a hundred days ago, routed, that retention may drop.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use mailspan_core::Millis;
use tokio::sync::watch;

use super::event::Maker;
use super::{Plan, SECRET_FILE, hub, store};
use crate::app::{App, Live};
use crate::deliver::start::lease;
use crate::{config, open, route, runtime};

const FILE: &str = "aged.toml";
const AGE_MS: i64 = 100 * 86_400_000;
/// Requests at once while it is made.
const WRITERS: u64 = 256;

/// Writes so many into the store that the hub of this folder will open.
pub async fn fill(plan: &Plan, folder: &Path, events: u64) -> anyhow::Result<()> {
    let nowhere = "127.0.0.1:9".parse()?;
    let file = folder.join(FILE);
    super::write_private(&file, &hub::configuration(plan, nowhere, nowhere))?;
    let options = config::Options { env: &|_| None, names: &[], dev: false };
    let hub = config::load(&file, &options).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let opened =
        open::store(&hub.storage, &hub.store_keys, hub.intake_queue).await.context("open the store")?;
    let (_stop, stopped) = watch::channel(false);
    let live = Live::new(hub, &opened.store).await.context("register names in the store")?;
    let app = App::new(live, opened.store.clone(), None, stopped);
    let done = write(&app, folder, events).await;
    drop(app);
    opened.close(open::CLOSE_MS_MAX).await;
    done
}

async fn write(app: &App, folder: &Path, events: u64) -> anyhow::Result<()> {
    let secret = std::fs::read_to_string(folder.join(SECRET_FILE)).context("read the secret of the bench")?;
    let at = Millis(runtime::now().0.saturating_sub(AGE_MS));
    let maker = Arc::new(Maker::new(secret.trim(), runtime::random_u64(), WRITERS, at.0));
    let live = app.live();
    let source = live.hub.source("mailtarget").context("the bench's own source is not there")?;
    store::write_range(WRITERS, &app.store, source, &maker, 0..events, Some(at)).await?;
    let fence = lease(&app.store, "router", runtime::random_u128()).await?;
    while route::follow::step(app, fence).await? > 0 {}
    Ok(())
}
