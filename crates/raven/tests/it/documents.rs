//! Documents made from tables in the code are those in the repository. `RAVEN_UPDATE_DOCS=1 cargo test` writes them.

use std::{fs, path::Path};

use crate::support::{folder, raven, run};

#[test]
#[expect(clippy::disallowed_methods, reason = "how a developer asks for new documents")]
fn the_document_of_settings_is_current() {
    let folder = folder();
    let (code, made, _) = run(raven(folder.path(), &["docs", "configuration"]));
    assert_eq!(code, 0);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    if std::env::var_os("RAVEN_UPDATE_DOCS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "docs/configuration.md is not what the table of settings says: RAVEN_UPDATE_DOCS=1 cargo test -p raven writes it"
    );
}

#[test]
fn the_openapi_document_is_printed() {
    let folder = folder();
    let (code, stdout, _) = run(raven(folder.path(), &["openapi"]));
    assert_eq!(code, 0);
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(document["paths"]["/v1/messages"].is_object());
}
