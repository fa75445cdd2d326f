//! `obt publish`: an existing .torrent into a tracker's catalogue.

use obt_node::names::Name;
use obt_node::state::StateFolder;
use obt_node::tracker_client::{Replace, TrackerClient};

use crate::args::Publish;
use crate::commands::find::lookalikes;
use crate::commands::inspect::read_torrent;
use crate::commands::service::{asked, publishing_key, tell_tracker, tracker_address};
use crate::output::{Output, Status, Told, plain};
use crate::settings::Settings;

pub(crate) async fn run(args: Publish, settings: &Settings, output: Output) -> anyhow::Result<Status> {
    let client = TrackerClient::of(settings.members.of(&tracker_address(&args.tracker)?));
    let (metainfo, torrent) = read_torrent(&args.torrent)?;
    let name = args.name.unwrap_or_else(|| metainfo.info.name.clone());
    let name = parse_name(&name)?;
    let key = publishing_key(settings, &StateFolder::open(&settings.state()?)?)?;
    let replace = if args.replace { Replace::Yes } else { Replace::No };
    let published = asked(&client, client.publish(&name, &[torrent], replace, &key)).await.map_err(tell_tracker)?;
    if output.is_json() {
        output.value(&published)?;
    } else {
        let how = if published.existed { "was there already" } else { "published" };
        output.talk(format_args!("{} version {}: {how}", plain(name.as_str()), published.version));
        if let Some(warning) = lookalikes(name.as_str(), &published.similar) {
            output.talk(warning);
        }
        output.line(format_args!(
            "obt get {} {} {}",
            client.address().host(),
            client.address().port(),
            quoted(&name)
        ))?;
    }
    Ok(Status::Done)
}

/// A name that can be published.
pub(crate) fn parse_name(text: &str) -> anyhow::Result<Name> {
    Name::parse(text).map_err(|error| {
        let told = Told::failed(format!("\"{}\" is no name: {error}", plain(text)));
        told.hint("`--as NAME` publishes under another one").into()
    })
}

/// A name as a shell takes it.
pub(crate) fn quoted(name: &Name) -> String {
    let text = name.as_str();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/@:+,=%".contains(&byte) || !byte.is_ascii();
    let dashes = if text.starts_with('-') { "-- " } else { "" };
    if text.bytes().all(plain) {
        return format!("{dashes}{text}");
    }
    format!("{dashes}'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_for_the_shell_that_they_are_pasted_into() {
        for (name, shown) in [
            ("movie.mkv", "movie.mkv"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("-rf", "-- -rf"),
            ("$(reboot)", "'$(reboot)'"),
            ("ü", "ü"),
        ] {
            assert_eq!(quoted(&Name::parse(name).unwrap()), shown);
        }
    }
}
