//! What goes on all the time, counted.

use anyhow::Result;
use oxilium_e2e::{
    pod::Pod,
    scenario::sockets,
    traffic::{Connection, Datagrams, Echo},
};

use crate::input::{Input, SERVED};

/// What goes on all the time, and from where on it counts.
pub(crate) struct Traffic {
    pub(crate) allowed: [Datagrams; 2],
    pub(crate) connection: Connection,
    pub(crate) denied: Datagrams,
    pub(crate) denied_since: u64,
    pub(crate) changing: Datagrams,
    pub(crate) changing_since: u64,
    /// To the address of a service, in each family, and from where on it counts: without programs nobody translates it.
    pub(crate) served: [Datagrams; 2],
    pub(crate) served_since: [u64; 2],
}

impl Traffic {
    pub(crate) fn start(
        [subject, friend, stranger, changeling]: [&Pod; 4],
        echo: Echo,
    ) -> Result<Self> {
        let stream = |name: &str, from: &Pod, port, family: usize, echo| {
            let to = sockets(subject, port)[family];
            Datagrams::start(name, [&from.netns, &subject.netns], to, echo)
        };
        let to = sockets(subject, 7004)[0];
        let frontends = Input::Open.busy(subject, changeling).sockets();
        let served = |name: &str, family: usize| {
            let backends =
                [subject, changeling].map(|pod| (&pod.netns, sockets(pod, SERVED)[family]));
            Datagrams::to_service(name, &friend.netns, frontends[family], &backends, echo)
        };
        Ok(Self {
            allowed: [
                stream("allowed (IPv4)", friend, 7001, 0, Echo::Yes)?,
                stream("allowed (IPv6)", friend, 7001, 1, Echo::Yes)?,
            ],
            connection: Connection::start(&friend.netns, &subject.netns, to)?,
            denied: stream("denied", stranger, 7002, 0, echo)?,
            denied_since: 0,
            changing: stream("changing", changeling, 7003, 0, echo)?,
            changing_since: 0,
            served: [served("service (IPv4)", 0)?, served("service (IPv6)", 1)?],
            served_since: [0; 2],
        })
    }

    /// The agent says that it is ready.
    pub(crate) fn count(&mut self) -> Result<()> {
        self.changing_since = self.changing.goes_on()?;
        self.denied_since = self.denied_since.min(self.denied.goes_on()?);
        for (stream, since) in self.served.iter().zip(&mut self.served_since) {
            *since = (*since).min(stream.goes_on()?);
        }
        Ok(())
    }

    /// From now on everything may pass, until the agent says that it is ready.
    pub(crate) fn anything_may_pass(&mut self) {
        self.denied_since = u64::MAX;
    }

    /// The programs are gone: nobody denies, nobody translates.
    pub(crate) fn programs_are_gone(&mut self) {
        self.anything_may_pass();
        self.served_since = [u64::MAX; 2];
    }

    /// Nothing lost, nothing let through.
    pub(crate) fn check(&self, input: Input) -> Result<()> {
        let denied = self.denied_since..self.denied.goes_on()?;
        let changing = self.changing_since..self.changing.goes_on()?;
        for stream in &self.allowed {
            stream.all_passed(&(0..stream.goes_on()?))?;
        }
        for (stream, since) in self.served.iter().zip(self.served_since) {
            stream.all_passed(&(since..stream.goes_on()?))?;
        }
        self.denied.none_passed(&denied)?;
        match input {
            Input::Open => self.changing.all_passed(&changing)?,
            Input::Closed => self.changing.none_passed(&changing)?,
        }
        self.connection.is_unharmed()
    }
}
