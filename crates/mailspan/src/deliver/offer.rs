//! Deliveries that are opened again, one by one, by a command.

use mailspan_core::Offer;
use mailspan_engine::Happened;
use mailspan_store::{Trouble, Write, Wrote};

use crate::app::App;
use crate::begun::to_its_end;
use crate::runtime;

/// Opens them and wakes their desks; both, though whoever asked goes away after the commit. `again`: what is done is
/// done once more.
pub async fn offer(app: &App, offers: Vec<Offer>, again: bool) -> Result<(), Trouble> {
    let own = app.clone();
    to_its_end(async move {
        let wrote = own.store.write(Write::Offer { offers, again, at: runtime::now() }).await?;
        if let Wrote::Offered { destinations } = wrote {
            for destination in destinations {
                own.tell(Happened::Offered { destination }).await;
            }
        }
        own.has_moved();
        Ok(())
    })
    .await
}
