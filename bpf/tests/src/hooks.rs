//! The programs as the agent loads them, run on single packets.

use anyhow::Result;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use oxilium_abi::Direction;
use oxilium_datapath::testing::Frame;
use oxilium_model::node_state::Hook;

use crate::{NEXT, node::PinnedNode, test_context};

/// The programs that the hooks of a [`PinnedNode`] get.
pub struct Hooks {
    from: SchedClassifier,
    to: SchedClassifier,
}

impl Hooks {
    /// Those that are pinned.
    pub fn of(node: &PinnedNode) -> Result<Self> {
        let pinned = |hook: Hook| {
            let path = node.program(hook.program())?;
            Ok::<_, anyhow::Error>(SchedClassifier::from_pin(path)?)
        };
        Ok(Self {
            from: pinned(Hook::FromContainer)?,
            to: pinned(Hook::ToContainer)?,
        })
    }

    /// Runs the hook's program on a packet; it passes.
    pub fn passes(&self, direction: Direction, frame: &Frame) -> Result<bool> {
        Ok(self.passed(direction, frame)?.is_some())
    }

    /// Runs the hook's program on a packet; the bytes that it passes on, if it does.
    pub fn passed(&self, direction: Direction, frame: &Frame) -> Result<Option<Vec<u8>>> {
        let program = match direction {
            Direction::Egress => &self.from,
            Direction::Ingress => &self.to,
        };
        let context = test_context(frame);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame.bytes);
        options.ctx_in = Some(&context);
        let mut bytes = vec![0; frame.bytes.len()];
        options.data_out = Some(&mut bytes);
        let passes = program.test_run(options)?.return_value == NEXT;
        Ok(passes.then_some(bytes))
    }
}
