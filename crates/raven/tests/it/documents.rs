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

/// Files and folders that documents name in backticks or link to, from the root of the project.
fn named_paths(text: &str) -> Vec<String> {
    let roots = ["crates/", "docs/", "scripts/", "tests/", "bench/", "./scripts/"];
    let quoted = text.split('`').skip(1).step_by(2);
    let linked = text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(path, _)| path));
    let is_path = |t: &&str| !t.contains([' ', '*', '<', '…']) && (roots.iter().any(|r| t.starts_with(r)) || t.ends_with(".md"));
    quoted.chain(linked).filter(is_path).map(|t| t.trim_end_matches('/').to_owned()).collect()
}

#[test]
fn what_documents_name_exists() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folders = [root.clone(), root.join("docs"), root.join("bench")];
    let pages = folders.iter().flat_map(|f| f.read_dir().unwrap()).map(|entry| entry.unwrap().path());
    let mut named = 0;
    for page in pages.filter(|p| p.extension().is_some_and(|e| e == "md")) {
        for path in named_paths(&std::fs::read_to_string(&page).unwrap()) {
            let beside = page.parent().unwrap().join(&path);
            assert!(root.join(&path).exists() || beside.exists(), "{} names {path}, which is not there", page.display());
            named += 1;
        }
    }
    assert!(named > 20, "only {named} paths were found: this test has stopped looking");
}
