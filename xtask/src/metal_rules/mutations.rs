//! What `cargo xtask mutants` takes away of the device `metal`: for each rule of docs/metal.md the lines that keep it.

/// A change of the sources that breaks a rule while it is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mutation {
    /// What names it; no two have the same.
    pub(crate) name: &'static str,
    /// What the first cell of its row contains, and that of no other row.
    pub(crate) rule: &'static str,
    /// A file of `crates/weldpool/src`.
    pub(crate) file: &'static str,
    /// What is replaced, with the text that the row says the rule is kept by. The file has it once; where an earlier
    /// mutation has changed it, the changed file does.
    pub(crate) from: &'static str,
    /// What stands there instead. [`SWITCH`] in it is an expression that is true while the mutation is on.
    pub(crate) to: &'static str,
}

/// Stands for the switch of a mutation.
pub(crate) const SWITCH: &str = "MUTATED";

const fn one(
    rule: &'static str,
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
) -> Mutation {
    Mutation {
        name,
        rule,
        file,
        from,
        to,
    }
}

/// All of them, in the order of the page's table.
pub(crate) const MUTATIONS: &[Mutation] = &[
    one(
        "`HeapStorage`",
        "managed storage lies on heaps",
        "device/metal/mod.rs",
        "StorageMode::Managed => false,",
        "StorageMode::Managed => MUTATED,",
    ),
    one(
        "A buffer lies inside its heap",
        "a heap's buffer begins behind the heap's start",
        "device/metal/segment.rs",
        "heap.new_buffer(bytes, 0)?",
        "heap.new_buffer(bytes, if MUTATED { 256 } else { 0 })?",
    ),
    one(
        "`BufferLength`",
        "segments have any length",
        "device/metal/mod.rs",
        "if bytes > self.properties.segment_bytes_max {",
        "if !MUTATED && bytes > self.properties.segment_bytes_max {",
    ),
    one(
        "`InsideBuffer`",
        "work ends beyond its buffer",
        "device/metal/known.rs",
        "offset.checked_add(bytes).is_none_or(",
        "!MUTATED && offset.checked_add(bytes).is_none_or(",
    ),
    one(
        "`BlitAlignment`",
        "blits begin anywhere",
        "device/metal/blit.rs",
        "let head = at.next_multiple_of(BLIT_ALIGNMENT) - at;",
        "let head = if MUTATED { 0 } else { at.next_multiple_of(BLIT_ALIGNMENT) - at };",
    ),
    one(
        "`Ordered`",
        "passes do not wait for the fence",
        "device/metal/queue.rs",
        "encoder.wait_for_fence(&self.fence);",
        "if !MUTATED { encoder.wait_for_fence(&self.fence); }",
    ),
    one(
        "`Ordered`",
        "passes do not update the fence",
        "device/metal/queue.rs",
        "encoder.update_fence(&self.fence);",
        "if !MUTATED { encoder.update_fence(&self.fence); }",
    ),
    one(
        "`FenceReuse`",
        "passes wait for the fence after an update",
        "device/metal/queue.rs",
        "encoder.wait_for_fence(&self.fence);",
        "if MUTATED { encoder.update_fence(&self.fence); } encoder.wait_for_fence(&self.fence);",
    ),
    one(
        "An event is signalled behind",
        "points are signalled behind no pass",
        "device/metal/queue.rs",
        "            self.order(commands)?;
            commands.signal(self.points.event(), value);",
        "            if !MUTATED { self.order(commands)?; }
            commands.signal(self.points.event(), value);",
    ),
    one(
        "A wait for an event holds up",
        "a queue does not wait for an event",
        "device/metal/queue.rs",
        "commands.wait_for(event, value);",
        "if !MUTATED { commands.wait_for(event, value); }",
    ),
    one(
        "A wait for an event holds up",
        "no pass stands between a wait and later command buffers",
        "device/metal/queue.rs",
        "commands.wait_for(event, value); }
            }
            self.order(commands)",
        "commands.wait_for(event, value); }
            }
            if MUTATED { return Ok(()); }
            self.order(commands)",
    ),
    one(
        "A wait for an event is over at its value or any above",
        "an event is announced while another submission has it",
        "device/metal/queue/external.rs",
        "matches!(&self.held, Held::ByNobody(ended) if ended.load(Ordering::Acquire))",
        "MUTATED || matches!(&self.held, Held::ByNobody(ended) if ended.load(Ordering::Acquire))",
    ),
    one(
        "A wait for an event is over at its value or any above",
        "an event is announced while the work that had it runs",
        "device/metal/queue/external.rs",
        "if ended.load(Ordering::Acquire)",
        "if MUTATED || ended.load(Ordering::Acquire)",
    ),
    one(
        "`OneEncoder`",
        "encoders do not end",
        "device/metal/queue.rs",
        "encoder.end();",
        "if !MUTATED { encoder.end(); }",
    ),
    one(
        "`CommandBuffers`",
        "nobody waits for room",
        "device/metal/queue.rs",
        "self.points.wait_for_room(ROOM, timeout)",
        "MUTATED || self.points.wait_for_room(ROOM, timeout)",
    ),
    one(
        "What the host wrote is there for work",
        "work does not wait for the function before it",
        "device/metal/queue.rs",
        "commands.wait_for(gate, after);",
        "if !MUTATED { commands.wait_for(gate, after); }",
    ),
    one(
        "Who listens to an event is called",
        "the gate of a lost queue stays",
        "device/metal/timeline.rs",
        "self.gate.set_signaled_value(u64::MAX);",
        "if !MUTATED { self.gate.set_signaled_value(u64::MAX); }",
    ),
    one(
        "`EventRises`",
        "events of a lost queue are raised again",
        "device/metal/timeline.rs",
        "!std::mem::replace(&mut work.let_go, true)",
        "(!std::mem::replace(&mut work.let_go, true) || MUTATED)",
    ),
    one(
        "`EventRises`",
        "functions raise the gate to less than it has",
        "device/metal/timeline.rs",
        "if self.gate.signaled_value() < value {",
        "if MUTATED || self.gate.signaled_value() < value {",
    ),
    one(
        "tells so by its handler alone",
        "points behind a failed command buffer are reached",
        "device/metal/timeline.rs",
        "first_failed.is_none_or(|failed| by < failed)",
        "(MUTATED || first_failed.is_none_or(|failed| by < failed))",
    ),
    one(
        "tells so by its handler alone",
        "a failed queue's event stands for its points",
        "device/metal/timeline.rs",
        "(work.is_failing() && work.reached < point)",
        "(!MUTATED && work.is_failing() && work.reached < point)",
    ),
    one(
        "tells so by its handler alone",
        "the GPU waits for a failed queue",
        "device/metal/queue.rs",
        "points.is_some_and(EventTimeline::is_waited_for_by_the_gpu)",
        "points.is_some_and(|points| MUTATED || points.is_waited_for_by_the_gpu())",
    ),
    one(
        "tells so by its handler alone",
        "the GPU waits for a failed queue's points alone",
        "device/metal/queue.rs",
        ".chain(points.beside(value))",
        ".chain(points.beside(value).filter(|_| !MUTATED))",
    ),
    one(
        "that takes too long terminates its command buffer",
        "a queue is lost while its function runs",
        "device/metal/timeline.rs",
        "self.in_flight() == 0 && self.functions == 0",
        "self.in_flight() == 0 && (MUTATED || self.functions == 0)",
    ),
    one(
        "that takes too long terminates its command buffer",
        "a queue is lost while work of others runs",
        "device/metal/timeline.rs",
        "self.stopped().filter(|_| self.external == 0)",
        "self.stopped().filter(|_| MUTATED || self.external == 0)",
    ),
    one(
        "that takes too long terminates its command buffer",
        "others' work takes the loss of its queue back",
        "device/metal/timeline.rs",
        "        if let Some(why) = work.lost() {
            return Err(lost(why));
        }
        work.external += 1;",
        "        if let Some(why) = work.lost().filter(|_| !MUTATED) {
            return Err(lost(why));
        }
        work.external += 1;",
    ),
    one(
        "that takes too long terminates its command buffer",
        "work announced to a failed queue does not begin",
        "device/metal/timeline.rs",
        "self.announcements.set_signaled_value(u64::MAX);",
        "if !MUTATED { self.announcements.set_signaled_value(u64::MAX); }",
    ),
    one(
        "that takes too long terminates its command buffer",
        "queues that wait for a lost one stay",
        "device/metal/timeline.rs",
        "self.event.set_signaled_value(u64::MAX);",
        "if !MUTATED { self.event.set_signaled_value(u64::MAX); }",
    ),
    one(
        "`HandlerAfterCommit`",
        "handlers come behind the commit",
        "device/metal/queue.rs",
        "commands.on_completed(Box::new(move |outcome| {
                        M::pooled(|| points.leave(number, outcome));
                    }));
                    commands.commit();",
        "if MUTATED { commands.commit(); }
                    commands.on_completed(Box::new(move |outcome| {
                        M::pooled(|| points.leave(number, outcome));
                    }));
                    if !MUTATED { commands.commit(); }",
    ),
    one(
        "Handlers and listeners are called",
        "panics reach a thread of Metal's",
        "device/metal/queue.rs",
        "if catch_unwind(AssertUnwindSafe(function)).is_err() {",
        "if MUTATED { function(); } else if catch_unwind(AssertUnwindSafe(function)).is_err() {",
    ),
    one(
        "`AutoreleasePool`",
        "submissions are in no pool",
        "device/metal/queue.rs",
        "        M::pooled(|| {
            let resident = &self.shared.resident;
            resident.before_submission(&self.queue, &mut state.sets);
            let number = self.points.enter(point)?;",
        "        fn in_pool<F: FnOnce() -> T, T>(is: bool, pooled: impl FnOnce(F) -> T, work: F) -> T {
            if is { pooled(work) } else { work() }
        }
        in_pool(!MUTATED, M::pooled, || {
            let resident = &self.shared.resident;
            resident.before_submission(&self.queue, &mut state.sets);
            let number = self.points.enter(point)?;",
    ),
    one(
        "Each object is released as often",
        "segments are not released",
        "device/metal/segment.rs",
        "let objects = self.objects.take();",
        "let objects = if MUTATED {
                std::mem::forget(self.objects.take());
                None
            } else {
                self.objects.take()
            };",
    ),
    one(
        "`ResidencyCommitted`",
        "changes of sets are not committed",
        "device/metal/resident.rs",
        "let changed = sets.decided.before_submission(Instant::now());",
        "let mut changed = sets.decided.before_submission(Instant::now());
        if MUTATED { changed.clear(); }",
    ),
    one(
        "What a kernel reaches by an address",
        "registered memory is in no set",
        "device/metal/registration.rs",
        "let member = shared.resident.add(metal, resident, length as u64);",
        "let member = if MUTATED { None } else { shared.resident.add(metal, resident, length as u64) };",
    ),
    one(
        "What a kernel reaches by an address",
        "segments are in no set",
        "device/metal/segment.rs",
        "objects.enter_residency(shared);",
        "if !MUTATED { objects.enter_residency(shared); }",
    ),
    one(
        "`ResidencyOffered`",
        "there are sets on every system",
        "device/metal/resident.rs",
        "config.enabled && metal.has_residency_sets() &&",
        "config.enabled && (MUTATED || metal.has_residency_sets()) &&",
    ),
    one(
        "`ResidencyOffered`",
        "there are sets on every GPU",
        "device/metal/family.rs",
        "residency_sets: real && metal3",
        "residency_sets: real && (MUTATED || metal3)",
    ),
    one(
        "`ResidencySets`",
        "there are sets without end",
        "device/metal/residency.rs",
        "None if self.sets.len() < SETS_MAX",
        "None if MUTATED || self.sets.len() < SETS_MAX",
    ),
    one(
        "`NotVolatile`",
        "contents that are gone are taken for there",
        "device/metal/segment.rs",
        "if before == PurgeableState::Empty",
        "if !MUTATED && before == PurgeableState::Empty",
    ),
    one(
        "What a residency set holds is wired",
        "parked memory stays in its set",
        "device/metal/segment.rs",
        "objects.leave_residency(&self.shared);
            self.shared.resident.commit();",
        "if !MUTATED { objects.leave_residency(&self.shared); }
            self.shared.resident.commit();",
    ),
    one(
        "`Disjoint`",
        "copies overlap",
        "queue.rs",
        "refuse_overlap(&source.part(), &destination.part())?;",
        "if !MUTATED { refuse_overlap(&source.part(), &destination.part())?; }",
    ),
    one(
        "`WholePages`",
        "memory is wrapped from where it begins",
        "device/metal/zero_copy.rs",
        "let start = at / page * page;",
        "let start = if MUTATED { at } else { at / page * page };",
    ),
    one(
        "`StaysMapped`",
        "nobody waits for the end of a buffer",
        "device/metal/registration.rs",
        "if self.ended.wait(END_WAIT)",
        "if MUTATED || self.ended.wait(END_WAIT)",
    ),
    one(
        "may come back with another length",
        "wrapped memory of another length is taken",
        "device/metal/registration.rs",
        "if buffer.length() != length",
        "if !MUTATED && buffer.length() != length",
    ),
    one(
        "`Writable`",
        "guards write to what is read only",
        "registered/mod.rs",
        "self.check_writable()?;
        self.in_flight",
        "if !MUTATED { self.check_writable()?; }
        self.in_flight",
    ),
    one(
        "`Writable`",
        "queues write to what is read only",
        "registered/mod.rs",
        "self.check_writable()?;
        Ok(None)",
        "if !MUTATED { self.check_writable()?; }
        Ok(None)",
    ),
    one(
        "Of pages that are wrapped for a part",
        "work begins before the part",
        "device/metal/known.rs",
        "if offset < window.start",
        "if !MUTATED && offset < window.start",
    ),
    one(
        "`BufferCount`",
        "buffers are without number",
        "device/metal/known.rs",
        "(count < self.most).then_some(count + 1)",
        "(MUTATED || count < self.most).then_some(count + 1)",
    ),
    one(
        "A buffer for one block",
        "buffers over blocks begin anywhere",
        "device/metal/object.rs",
        "!offset.is_multiple_of(needed.align)",
        "(!MUTATED && !offset.is_multiple_of(needed.align))",
    ),
    one(
        "A buffer for one block",
        "buffers over blocks end anywhere",
        "device/metal/object.rs",
        "end.is_none_or(|end| end > heap.size())",
        "(!MUTATED && end.is_none_or(|end| end > heap.size()))",
    ),
    one(
        "`ManagedAnnounced`",
        "the device does not announce",
        "device/metal/mod.rs",
        "buffer.did_modify_range(at..at + bytes);",
        "if !MUTATED { buffer.did_modify_range(at..at + bytes); }",
    ),
    one(
        "`ManagedAnnounced`",
        "guards are not told of",
        "buffer.rs",
        "self.tell_once();",
        "if !MUTATED { self.tell_once(); }",
    ),
    one(
        "`ManagedSynchronized`",
        "nothing is synchronised",
        "device/metal/queue/remote.rs",
        "|blit| blit.synchronize(written)",
        "|blit| if !MUTATED { blit.synchronize(written) }",
    ),
    one(
        "A synchronisation is of the whole buffer",
        "managed buffers lie together",
        "device/metal/mod.rs",
        "StorageMode::Managed => !exposure.peers && self.properties.managed_copies",
        "StorageMode::Managed => !MUTATED && !exposure.peers && self.properties.managed_copies",
    ),
    one(
        "`OnlyManaged`",
        "other storage is synchronised",
        "device/metal/queue/remote.rs",
        "self.shared.two_copies && written.storage_mode() == StorageMode::Managed",
        "MUTATED || self.shared.two_copies && written.storage_mode() == StorageMode::Managed",
    ),
    one(
        "On Intel Macs heaps hold no shared storage",
        "shared storage lies on heaps of an Intel Mac",
        "device/metal/mod.rs",
        "StorageMode::Shared => self.shared.shared_heaps",
        "StorageMode::Shared => MUTATED || self.shared.shared_heaps",
    ),
    one(
        "`RemoteView`",
        "all private memory is shown",
        "device/metal/mod.rs",
        "StorageMode::Private => exposure.peers && !self.properties.peers.is_empty()",
        "StorageMode::Private => MUTATED || exposure.peers && !self.properties.peers.is_empty()",
    ),
    one(
        "`RemoteView`",
        "views are written",
        "transfer/path.rs",
        "device.addressing != Addressing::Objects",
        "MUTATED || device.addressing != Addressing::Objects",
    ),
    one(
        "Shared events order command buffers of several devices",
        "devices do not wait for each other",
        "device/metal/queue.rs",
        "if let Some(points) = other.downcast_ref::<EventTimeline<M>>() {",
        "if let Some(points) = other.downcast_ref::<EventTimeline<M>>() {
            if MUTATED { return Ok(()); }",
    ),
    one(
        "`BindAlignment`",
        "buffers are bound anywhere",
        "device/metal/kernels.rs",
        "        offset / BIND_ALIGNMENT * BIND_ALIGNMENT,
        (offset % BIND_ALIGNMENT) as u64,",
        "        if MUTATED { offset } else { offset / BIND_ALIGNMENT * BIND_ALIGNMENT },
        if MUTATED { 0 } else { (offset % BIND_ALIGNMENT) as u64 },",
    ),
    one(
        "`BytesLength`",
        "more bytes are set than may be",
        "device/metal/kernels.rs",
        "encoder.set_bytes(&places, PLACES);",
        "encoder.set_bytes(if MUTATED { &[0; 4097] } else { &places[..] }, PLACES);",
    ),
    one(
        "In a virtual machine",
        "a virtual machine has residency sets",
        "device/metal/mod.rs",
        "config.residency.enabled && defaults.residency_sets",
        "config.residency.enabled && (MUTATED || defaults.residency_sets)",
    ),
    one(
        "In a virtual machine",
        "a virtual machine has heaps",
        "device/metal/mod.rs",
        "StorageMode::Private => self.shared.heaps",
        "StorageMode::Private => MUTATED || self.shared.heaps",
    ),
    one(
        "Apple's GPUs say that they are of the family of Intel",
        "the oldest family is asked for first",
        "device/metal/family.rs",
        "let found = newest_first",
        "let mut newest_first = newest_first;
        if MUTATED { newest_first.reverse(); }
        let found = newest_first",
    ),
    one(
        "`SparseOffered`",
        "placement sparse buffers on every system",
        "device/metal/virtual_memory.rs",
        "if !metal.has_placement_sparse()",
        "if !MUTATED && !metal.has_placement_sparse()",
    ),
    one(
        "`SparseOffered`",
        "placement sparse buffers on every GPU",
        "device/metal/virtual_memory.rs",
        "if !metal.supports_family(Family::Metal4)",
        "if !MUTATED && !metal.supports_family(Family::Metal4)",
    ),
    one(
        "`SparsePages`",
        "mappings anywhere",
        "device/metal/virtual_memory.rs",
        "(inside && at.is_multiple_of(GRANULARITY))",
        "(MUTATED || inside && at.is_multiple_of(GRANULARITY))",
    ),
    one(
        "`SparseStorage`",
        "mapped memory of any storage",
        "device/metal/virtual_memory.rs",
        "if storage != StorageMode::Private",
        "if !MUTATED && storage != StorageMode::Private",
    ),
    one(
        "`MappingAwaited`",
        "work does not wait for mappings",
        "device/metal/mapped.rs",
        "commands.wait_for(&self.event, issued);",
        "if !MUTATED { commands.wait_for(&self.event, issued); }",
    ),
    one(
        "`MappingKept`",
        "what updates name is not kept",
        "device/metal/updates.rs",
        "kept.extend(what.into_iter().map(|what| (value, what)));",
        "let what = what.into_iter().map(|what| (value, what));
        if MUTATED { what.for_each(drop) } else { kept.extend(what) }",
    ),
    one(
        "`SparseResident`",
        "heaps behind pages are in no set",
        "device/metal/virtual_memory.rs",
        ".add(&shared.metal, Allocation::Heap(&heap), heap.size() as u64)",
        ".add(&shared.metal, Allocation::Heap(&heap), heap.size() as u64)
                .inspect(|&member| if MUTATED { shared.resident.remove(member, Allocation::Heap(&heap)); })",
    ),
];
