use mailspan_core::{Rate, Span};

use super::{Faults, NAMES};

#[test]
fn the_text_is_read_and_written_back() {
    let text = "duplicates=5%,reorder=10%,burst=20,wrong_secret=2%,rate_limit=100/10s,partial=5%,server_error=5%,\
                unauthorized_once,reset_after_commit=2%,slow=5%:2s,endless=1%,drip,missing_scopes,status=418";
    let faults = Faults::parse(text).unwrap();
    assert_eq!(faults.duplicates, 5);
    assert_eq!(faults.burst, 20);
    assert_eq!(faults.rate_limit, Some(Rate { count: 100, per_ms: 10_000 }));
    assert_eq!(faults.slow, Some((5, Span { ms: 2_000 })));
    assert!(faults.unauthorized_once && faults.drip && !faults.down);
    assert_eq!(faults.missing_scopes.as_deref(), Some("*"));
    assert_eq!(Faults::parse(&faults.to_string()), Ok(faults));
    for nothing in ["", "none", " , ", "drip none"] {
        assert_eq!(Faults::parse(nothing), Ok(Faults::default()), "{nothing}");
    }
    assert_eq!(Faults::default().to_string(), "none");
}

#[test]
fn a_share_alone_is_all() {
    assert_eq!(Faults::parse("server_error").unwrap().server_error, 100);
}

#[test]
fn every_name_of_the_help_is_read_and_written() {
    for (name, what) in NAMES {
        let faults = Faults::parse(name).unwrap_or_else(|why| panic!("{name} ({what}): {why}"));
        assert_ne!(faults, Faults::default(), "{name}");
        assert_eq!(Faults::parse(&faults.to_string()), Ok(faults), "{name}");
    }
}

#[test]
fn what_cannot_be_read_says_what_there_is() {
    for wrong in [
        "duplicats=5%",
        "partial=101%",
        "partial=x",
        "slow=5%",
        "rate_limit=0/1s",
        "drip=5%",
        "status=9",
        "burst=-1",
    ] {
        let why = Faults::parse(wrong).expect_err(wrong);
        assert!(why.contains(&format!("`{wrong}`")) && why.contains("reset_after_commit=2%"), "{why}");
    }
}
