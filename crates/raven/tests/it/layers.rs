//! Arrows between crates only go down, and what only one layer may use, only that layer depends on.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// The crates of the house: what each may depend on in its product, beside outside crates.
const ALLOWED: &[(&str, &[&str])] = &[
    ("raven-core", &[]),
    ("raven-store", &["raven-core"]),
    ("raven-providers", &["raven-core"]),
    ("raven-engine", &["raven-core", "raven-store", "raven-providers"]),
    ("raven-http", &["raven-core", "raven-store", "raven-providers", "raven-engine"]),
    ("raven", &["raven-core", "raven-store", "raven-providers", "raven-engine", "raven-http"]),
    ("raven-testkit", &["raven-core", "raven-store", "raven-providers", "raven-engine", "raven-http"]),
    ("raven-bench", &["raven-core", "raven-store", "raven-providers", "raven-engine", "raven-http"]),
];

/// Those that are no part of the product: they drive every layer from outside, so they may use what each of them uses.
const TOOLS: &[&str] = &["raven-testkit", "raven-bench"];

/// Outside crates that belong to some layers alone.
const RESERVED: &[(&str, &[&str])] = &[
    ("axum", &["raven-http"]),
    ("utoipa", &["raven-http"]),
    ("rusqlite", &["raven-store"]),
    ("tokio-postgres", &["raven-store"]),
    ("deadpool-postgres", &["raven-store"]),
    // Only the engine calls the world; an adapter builds its messages with lettre, too.
    ("hyper-rustls", &["raven-engine"]),
    ("lettre", &["raven-engine", "raven-providers"]),
    ("chacha20poly1305", &["raven-engine"]),
    ("argon2", &["raven-engine"]),
    ("clap", &["raven"]),
    ("tracing-subscriber", &["raven"]),
];

/// What a crate without I/O must not have.
const PURE: &[(&str, &[&str])] = &[
    ("raven-core", &["tokio", "getrandom", "hyper", "http", "rusqlite", "tokio-postgres", "axum", "tracing"]),
    ("raven-providers", &["tokio", "getrandom", "hyper", "hyper-util", "rusqlite", "tokio-postgres"]),
];

/// Of each of our crates, the names of what it depends on in its product (and for its tests, in the second map).
fn dependencies() -> [BTreeMap<String, Vec<String>>; 2] {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut maps = [BTreeMap::new(), BTreeMap::new()];
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        for (map, tests) in maps.iter_mut().zip([false, true]) {
            let list = package["dependencies"].as_array().unwrap().iter().filter(|d| (d["kind"] == "dev") == tests);
            map.insert(name.to_owned(), list.map(|d| d["name"].as_str().unwrap().to_owned()).collect());
        }
    }
    maps
}

#[test]
fn arrows_only_go_down() {
    let [product, _] = dependencies();
    let known: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    for (name, list) in &product {
        let Some((_, allowed)) = ALLOWED.iter().find(|(n, _)| n == name) else {
            panic!("{name} has no place among the layers: give it one here")
        };
        for dependency in list.iter().filter(|d| known.contains(&d.as_str())) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
    assert_eq!(product.len(), ALLOWED.len());
}

#[test]
fn test_support_is_no_part_of_the_product() {
    let [product, tests] = dependencies();
    for (name, list) in &product {
        let support = |d: &String| TOOLS.contains(&d.as_str()) || (d == "tempfile" && !TOOLS.contains(&name.as_str()));
        assert!(!list.iter().any(support), "{name} depends on test support");
    }
    assert!(tests["raven"].contains(&"raven-testkit".to_owned()));
}

#[test]
fn each_layer_keeps_to_its_libraries() {
    let [product, _] = dependencies();
    for (library, owners) in RESERVED {
        for (name, list) in product.iter().filter(|(name, _)| !TOOLS.contains(&name.as_str())) {
            assert!(owners.contains(&name.as_str()) || !list.iter().any(|d| d == library), "{name} must not depend on {library}");
        }
    }
    for (name, banned) in PURE {
        for library in *banned {
            assert!(!product[*name].iter().any(|d| d == library), "{name} must not depend on {library}");
        }
    }
}
