//! Nodes that are in no map.

#![forbid(unsafe_code)]

use super::Node;

/// Empty nodes, to be used before new ones are made; those are never freed.
#[derive(Debug, Default)]
pub(crate) struct SpareNodes {
    inner: Vec<&'static Node>,
    leaves: Vec<&'static Node>,
}

impl SpareNodes {
    pub(super) fn take(&mut self, leaf: bool) -> &'static Node {
        let (spare, new): (_, fn() -> Node) = if leaf {
            (&mut self.leaves, Node::leaf)
        } else {
            (&mut self.inner, Node::inner)
        };
        spare.pop().unwrap_or_else(|| Box::leak(Box::new(new())))
    }

    /// Takes a node that is empty.
    pub(super) fn put(&mut self, node: &'static Node) {
        match node {
            Node::Inner { .. } => self.inner.push(node),
            Node::Leaf { .. } => self.leaves.push(node),
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.inner.len() + self.leaves.len()
    }
}
