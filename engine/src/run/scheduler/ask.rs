//! Asking the cache for the results of keys that became known in the run, on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::thread::Scope;

use dcsft_cache::Digest;

use super::Scheduler;
use super::message::{Answers, Message};
use crate::run::RunError;
use crate::run::outcome::Shared;
use crate::study::NodeId;

impl<'a> Scheduler<'a> {
    /// Asks for all that is to be asked for, unless that goes on already.
    pub(super) fn ask<'scope, 'env>(
        &mut self,
        scope: &'scope Scope<'scope, 'env>,
        shared: &'env Shared<'a>,
        sender: &SyncSender<Message>,
    ) -> Result<(), RunError>
    where
        'a: 'env,
    {
        if self.asking || self.to_ask.is_empty() {
            return Ok(());
        }
        let keys = std::mem::take(&mut self.to_ask);
        let first = self.title(keys[0].0);
        let sender = sender.clone();
        let thread = std::thread::Builder::new().spawn_scoped(scope, move || {
            let _ = sender.send(Message::Answered(look_up(&keys, shared)));
        });
        match thread {
            Ok(_) => {
                self.asking = true;
                Ok(())
            }
            Err(source) => Err(RunError::Thread {
                title: first,
                source,
            }),
        }
    }
}

fn look_up(keys: &[(NodeId, Digest)], shared: &Shared<'_>) -> Answers {
    let lookups = shared.store.lookups();
    let all: Vec<Digest> = keys.iter().map(|(_, key)| *key).collect();
    lookups.bring(&all);
    let mut answers = Vec::with_capacity(keys.len());
    for (id, key) in keys {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        answers.push((*id, lookups.lookup(key)?.map(Arc::new)));
    }
    Ok(answers)
}
