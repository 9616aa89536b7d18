//! Keys under attack: what a flood of wrong secrets may cost, and that the right one is served beside it.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use raven_engine::keyring::KeyError;
use raven_testkit::{
    app::{TestApp, TestOptions, TestTenant},
    clock::TestClock,
    database::{MIGRATED_AT, databases},
    faults::{Fault, FaultyStore, Verb},
};

/// Runs a test on both engines, with a store that counts and fails on demand.
async fn with_faults(test: impl AsyncFn(TestApp, Arc<FaultyStore>, TestTenant)) {
    for database in databases().await {
        let store = FaultyStore::around(database.store());
        let clock = Arc::new(TestClock::at(MIGRATED_AT));
        let app = TestApp::start_over(database, store.clone(), TestOptions::default(), clock).await;
        let tenant = app.tenant("Acme").await;
        test(app, store, tenant).await;
    }
}

/// A secret that is wrong, under the prefix of a key.
fn wrong(key: &str, number: usize) -> String {
    let (prefix, _) = key.rsplit_once('_').expect("a key has a prefix");
    format!("{prefix}_{number:032}")
}

#[tokio::test]
async fn a_flood_of_wrong_secrets_is_refused_from_memory_and_the_right_one_is_served() {
    with_faults(async |app, store, t| {
        app.engine.keyring.check(&t.live).await.expect("the key is good");
        // From here on whoever asks the database fails.
        store.faults.inject(Verb::FindKey, Fault::Before, usize::MAX);
        for number in 0..20_000 {
            // Answered at once, so neither Argon2id (which runs on other threads) nor the database nor a queue is behind it.
            let refused = app.engine.keyring.check(&wrong(&t.live, number)).now_or_never();
            assert!(matches!(refused, Some(Err(KeyError::Invalid))), "{number}");
            if number % 100 == 0 {
                assert!(matches!(app.engine.keyring.check(&t.live).now_or_never(), Some(Ok(_))), "{number}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_reads_a_key_once_a_second() {
    with_faults(async |app, store, t| {
        let app = Arc::new(app);
        for second in 1..=3 {
            let before = store.faults.calls(Verb::FindKey);
            let ask = |number| {
                let (app, key) = (app.clone(), if number % 10 == 0 { t.live.clone() } else { wrong(&t.live, number) });
                tokio::spawn(async move { app.engine.keyring.check(&key).await.is_ok() })
            };
            let answers = join_all((0..2_000).map(ask).collect::<Vec<_>>()).await;
            for (number, served) in answers.into_iter().enumerate() {
                assert_eq!(served.expect("it ends"), number % 10 == 0, "{number}");
            }
            assert_eq!(store.faults.calls(Verb::FindKey) - before, 1, "in second {second}");
            app.clock.advance(Duration::from_secs(1));
        }
    })
    .await;
}

#[tokio::test]
async fn neither_a_known_key_nor_a_wrong_one_nor_a_count_allocates() {
    with_faults(async |app, _, t| {
        let (keyring, limiter) = (&app.engine.keyring, &app.engine.limiter);
        let bucket = keyring.check(&t.live).await.expect("the key is good").state.bucket.clone();
        let wrong = wrong(&t.live, 7);
        let once = || {
            assert!(keyring.check(&t.live).now_or_never().expect("at once").is_ok());
            assert!(keyring.check(&wrong).now_or_never().expect("at once").is_err());
        };
        // The cache keeps its books on some of the reads. What a check itself takes would be seen in each.
        let allocating = (0..1000).filter(|_| allocation_counter::measure(once).count_total > 0).count();
        assert!(allocating < 50, "{allocating} of 1000");
        limiter.count_in(&bucket, 1_000_000).await.expect("the store answers");
        let counts = allocation_counter::measure(|| {
            for _ in 0..100 {
                assert!(limiter.count_in(&bucket, 1_000_000).now_or_never().expect("at once").expect("from memory").is_allowed());
            }
        });
        assert_eq!(counts.count_total, 0, "{counts:?}");
    })
    .await;
}
