#!/usr/bin/env bash
# Brings images that were built while the cluster was up to its nodes.
. "$(dirname "$0")/lib.sh"

if [ "${1:-}" = --here ]; then
    import_images
    exit
fi
loading=()
for pid in "$PIDS"/node-[1-9]; do
    [ -f "$pid" ] || continue
    on_node "${pid##*-}" "$CLUSTER_DIR/load.sh" --here &
    loading+=($!)
done
for pid in "${loading[@]}"; do wait "$pid" || die "an image could not be imported"; done
