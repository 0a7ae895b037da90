//! How the connections of a live source are, kept for whoever looks: sentences for people, counts for machines.

use std::fmt;

use streams::binance::{Endpoint, Lost};

/// Every connection of a live source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    endpoint: Endpoint,
    symbols: usize,
    /// Why each connection is not there; `None` where it is.
    down: Vec<Option<String>>,
    /// Whether each connection was there before.
    was_there: Vec<bool>,
    reconnects: u64,
    newest_loss: Option<String>,
}

impl Connections {
    /// None is there yet.
    pub fn new(endpoint: Endpoint, symbols: usize, connections: usize) -> Self {
        Self {
            endpoint,
            symbols,
            down: vec![Some("connecting for the first time".to_owned()); connections],
            was_there: vec![false; connections],
            reconnects: 0,
            newest_loss: None,
        }
    }

    /// A connection is there.
    pub fn connected(&mut self, connection: usize) {
        self.down[connection] = None;
        self.reconnects += u64::from(self.was_there[connection]);
        self.was_there[connection] = true;
    }

    /// A connection ended, or could not be made.
    pub fn lost(&mut self, connection: usize, lost: &Lost) {
        self.down[connection] = Some(lost.to_string());
        self.newest_loss = Some(lost.to_string());
    }

    /// How many are there.
    pub fn up(&self) -> usize {
        self.down.iter().filter(|down| down.is_none()).count()
    }

    /// What is wrong, as a sentence.
    pub fn trouble(&self) -> Option<String> {
        let reason = self.down.iter().flatten().next()?;
        let (endpoint, all, down) = (&self.endpoint, self.down.len(), self.down.len() - self.up());
        Some(match all {
            1 => format!("not connected to {endpoint}: {reason}; it is tried again"),
            _ => format!("{down} of {all} connections to {endpoint} are down: {reason}; they are tried again"),
        })
    }
}

/// What is connected.
impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, symbols) = (&self.endpoint, self.symbols);
        write!(f, "connected to {endpoint} for {symbols} symbols")?;
        match &self.newest_loss {
            Some(loss) if self.reconnects > 0 => {
                write!(f, "; made again {} times, newest loss: {loss}", self.reconnects)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(count: usize) -> Connections {
        Connections::new("wss://stream.example:9443".parse().unwrap(), 3, count)
    }

    #[test]
    fn what_is_not_there_is_said_with_its_reason() {
        let mut one = connections(1);
        assert_eq!(
            one.trouble().unwrap(),
            "not connected to wss://stream.example:9443: connecting for the first time; it is tried again"
        );
        one.connected(0);
        assert_eq!(one.trouble(), None);
        assert_eq!(one.to_string(), "connected to wss://stream.example:9443 for 3 symbols");
        one.lost(0, &Lost::Closed(" with code 1001".to_owned()));
        let told = one.trouble().unwrap();
        assert!(told.contains("closed by the other side with code 1001; it is tried again"), "{told}");
    }

    #[test]
    fn connecting_again_is_counted_and_its_cause_kept() {
        let mut two = connections(2);
        two.connected(0);
        assert!(two.trouble().unwrap().starts_with("1 of 2 connections to wss://"));
        two.lost(1, &Lost::Unanswered);
        two.connected(1);
        assert_eq!(two.to_string(), "connected to wss://stream.example:9443 for 3 symbols");
        two.lost(0, &Lost::Stalled);
        assert_eq!(two.up(), 1);
        two.connected(0);
        let told = two.to_string();
        assert!(told.ends_with("; made again 1 times, newest loss: stalled: no answer to a ping within 10 s"));
    }
}
