// SPDX-License-Identifier: Apache-2.0
// Planted bugs: what the simulator must find. Each is a small change of one source, kept here and
// never in the product: `find` occurs exactly once in `file` and becomes `replace`.

export const BUGS = [
  {
    name: "a write is acknowledged before it is in the journal",
    rule: "A2",
    file: "src/volume/writer.ts",
    find: "      this.#pieceCount,\n    );\n  }\n\n  #onWritten",
    replace:
      "      this.#pieceCount,\n    );\n    this.#done[place] = 1;\n" +
      "    this.#world.clock.immediate(() => this.advance());\n  }\n\n  #onWritten",
  },
  {
    name: "a record counts before its segment's header is written",
    rule: "A2",
    file: "src/volume/writer.ts",
    find: "if (this.#done[place] === 0 || !this.#segments[place]!.headerWritten) break;",
    replace: "if (this.#done[place] === 0) break;",
  },
  {
    name: "a flush skips the sync",
    rule: "D3",
    file: "src/volume/journal.ts",
    find: "      this.#world.disk.sync(this.#handler, SYNC_TAG + segment.slot, segment.file);\n",
    replace: "      this.#world.clock.immediate(() => this.#onSynced(segment, 0));\n",
  },
  {
    name: "a flush syncs the open segment only",
    rule: "D3",
    file: "src/volume/journal.ts",
    find: "      this.#world.disk.sync(this.#handler, SYNC_TAG + segment.slot, segment.file);\n",
    replace:
      "      if (segment !== this.#used[this.#used.length - 1]) {\n" +
      "        this.#world.clock.immediate(() => this.#onSynced(segment, 0));\n" +
      "        continue;\n      }\n" +
      "      this.#world.disk.sync(this.#handler, SYNC_TAG + segment.slot, segment.file);\n",
  },
  {
    name: "FUA is not heeded",
    rule: "D3",
    file: "src/volume/volume.ts",
    find:
      "    this.#partial.release(slot);\n" +
      "    if ((this.#requests.flags[slot] & RequestFlag.Fua) !== 0) {",
    replace: "    this.#partial.release(slot);\n    if (this.#requests.flags[slot] < 0) {",
  },
  {
    name: "the name of a new segment is not synced",
    rule: "A3",
    file: "src/volume/journal.ts",
    find:
      "    const file = await this.#allocate(path, bytes, !isHurried);\n" +
      "    await files.syncFolder(folder);\n",
    replace: "    const file = await this.#allocate(path, bytes, !isHurried);\n",
  },
  {
    name: "the journal is trimmed before its records are in the backend",
    rule: "A1",
    file: "src/volume/volume.ts",
    find: "this.journal.free(this.map.mark.sequence);",
    replace: "this.journal.free(this.writer.committed);",
  },
  {
    name: "a TLog is committed before its data",
    rule: "A1",
    file: "src/volume/destage.ts",
    find:
      "    try {\n" +
      "      const put = await settleAll(built.map((sco) => this.persist(() => this.putSco(sco))));\n" +
      "      if (put.includes(null)) return false;\n" +
      "      for (const sco of built) await this.#cache(sco);\n" +
      "      return true;\n" +
      "    } finally {\n" +
      "      this.#builder.release(built);\n" +
      "    }\n",
    replace:
      "    const puts = settleAll(built.map((sco) => this.persist(() => this.putSco(sco))));\n" +
      "    void puts.catch(() => undefined).then(() => this.#builder.release(built));\n" +
      "    return true;\n",
  },
  {
    name: "a TLog names a SCO whose upload failed",
    rule: "A1",
    file: "src/volume/destage.ts",
    find: '      if (!hasCode(error, "OVS_EXISTS")) throw error;\n    }\n    this.counts.putBytes += sco.bytes;',
    replace: "    }\n    this.counts.putBytes += sco.bytes;",
  },
  {
    name: "a torn record is taken for a whole one",
    rule: "A3",
    file: "src/volume/recovery.ts",
    find: "const isRight = whole !== 0 && this.#payloadRight(whole);",
    replace: "const isRight = whole !== 0;",
  },
  {
    name: "a start of service keeps the epoch",
    rule: "A4",
    file: "src/router/records.ts",
    find: "epoch: (old?.value.epoch ?? 0) + 1,",
    replace: "epoch: old?.value.epoch ?? 1,",
  },
  {
    name: "a segment is freed while a read holds it",
    rule: "A5",
    file: "src/volume/journal.ts",
    find: "oldest.lastSequence > destagedSequence || !oldest.idle) return false;",
    replace: "oldest.lastSequence > destagedSequence) return false;",
  },
  {
    name: "the read caches take the clusters of two vDisks for the same",
    rule: "A5",
    file: "src/volume/thread.ts",
    find: "const base = this.#cacheBases.size * SCO_CLUSTERS_MAX;",
    replace: "const base = 0;",
  },
  {
    name: "partial writes to one cluster do not wait for each other",
    rule: "A6",
    file: "src/volume/partial.ts",
    find: "if (this.#locks.count > 0 && this.#locks.holderIn(first, end) >= 0) {",
    replace: "if (this.#locks.count < 0) {",
  },
  {
    name: "a partial write does not wait for earlier records",
    rule: "A6",
    file: "src/volume/partial.ts",
    find: "if (barrier > this.#volume.writer.committed) this.#behind.push(slot);",
    replace: "if (barrier < 0) this.#behind.push(slot);",
  },
  {
    name: "a TRIM is lost at recovery",
    rule: "A7",
    file: "src/volume/recovery.ts",
    find: "        layer.setZero(cluster, count);\n        continue;",
    replace: "        continue;",
  },
  {
    name: "zeroes do not come into the TLog",
    rule: "A7",
    file: "src/volume/destage.ts",
    find: 'for (const zero of content.zeroes) entries.push({ kind: "zero", ...zero });',
    replace: "",
  },
  {
    name: "a restart does not notice that the host was rebooted",
    rule: "A8",
    file: "src/volume/recovery.ts",
    find: "const rebooted = !equalBytes(bootId, this.#world.bootId);",
    replace: "const rebooted = bootId.byteLength === 0;",
  },
  {
    name: "after a reboot the map is trusted although it was not synced",
    rule: "A9",
    file: "src/volume/rebuild.ts",
    find: "  const first = map.mark.tlogNumber;\n  const objects = await listAll(\n    store,\n    namespace,\n    TLOG_PREFIX,\n    first === 0 ? undefined : tlogName(first),\n  );\n  for (const object of objects) await map.apply(await readTlog(parts, object));",
    replace: "  const first = map.mark.tlogNumber;",
  },
  {
    name: "the page cache keeps a page that has changed",
    rule: "A5",
    file: "src/volume/map.ts",
    find: "    for (let i = 0; i < pages.length; i++) this.#publish(pages[i]!, i);",
    replace: "",
  },
  {
    name: "sync does not wait for the full width",
    rule: "A10",
    file: "src/volume/volume.ts",
    find: "const width = await this.store.waitFullWidth(this.namespace, left);",
    replace: "const width = { full: left > 0, spareMin: 0 };",
  },
  {
    name: "fragments that are missing after the commit are not noted",
    rule: "A10",
    file: "src/backend/commit.ts",
    find: "        ...(lacking ? [widthPut(namespace, name)] : []),\n",
    replace: "",
  },
  {
    name: "the fence is not compared at the commit",
    rule: "C5",
    file: "src/backend/commit.ts",
    find: "        fenceCompare(namespace, manifest.ownerEpoch),\n",
    replace: "",
  },
  {
    name: "a new owner does not raise the fence",
    rule: "C5",
    file: "src/backend/namespaces.ts",
    find: '    success: [{ kind: "put", key, value }],\n    failure: [{ kind: "get", key }],\n  });\n  if (succeeded) return;\n  const fence',
    replace:
      '    success: [],\n    failure: [{ kind: "get", key }],\n  });\n  if (succeeded) return;\n  const fence',
  },
  {
    name: "the upload epoch is not compared at the commit",
    rule: "C6",
    file: "src/backend/commit.ts",
    find: "        epochCompare(namespace, manifest.gcEpoch),\n",
    replace: "",
  },
  {
    name: "garbage collection takes living fragments away",
    rule: "C6",
    file: "src/backend/gc.ts",
    find: "  return place !== undefined && place.osd === osd && place.version === mark.name.version;",
    replace:
      "  return place !== undefined && place.osd === osd && place.version < mark.name.version;",
  },
  {
    name: "repair uses a fragment's name again",
    rule: "C6",
    file: "src/backend/repair.ts",
    find: "const version = before + 1 + world.random.below(VERSION_STEP_MAX);",
    replace: "const version = Math.min(before, fragments[f]!.version);",
  },
  {
    name: "repair does not compare what it replaces",
    rule: "C6",
    file: "src/backend/commit.ts",
    find: '        { key, target: "modRevision", is: "=", number: revision },\n        epochCompare(namespace, epoch),',
    replace: "        epochCompare(namespace, epoch),",
  },
  {
    name: "the registry answers before it has synced",
    rule: "C7",
    file: "src/registry/embedded.ts",
    find: "await this.#store.write(group.batch, { sync: true });",
    replace: "await this.#store.write(group.batch, { sync: false });",
  },
  {
    name: "a lease that has run out keeps its keys",
    rule: "C7",
    file: "src/registry/leases.ts",
    find: "      this.#onExpired(lease);\n",
    replace: "",
  },
  {
    name: "an ASD answers before its index is written",
    rule: "ASD",
    file: "src/asd/commit.ts",
    find: "    await this.#index.write(batch);\n",
    replace: "    void this.#index.write(batch).catch(() => undefined);\n",
  },
  {
    name: "an ASD frees pages that are still read",
    rule: "ASD",
    file: "src/asd/commit.ts",
    find: 'if (place !== null && place !== "corrupt") this.#holds.retire(place.runs);',
    replace: 'if (place !== null && place !== "corrupt") this.#extents.allocator.free(place.runs);',
  },
  {
    name: "the journal takes more room than it may",
    rule: "back-pressure",
    file: "src/volume/journal.ts",
    find: "if (this.#spares.length === 0 && !this.#mayAllocate()) {",
    replace: "if (this.#spares.length < 0) {",
  },
  {
    name: "a disk that was full stays full for those who only ask",
    rule: "liveness",
    file: "src/asd/service.ts",
    find: "      await store.lookForRoom().catch(() => undefined);\n",
    replace: "",
  },
  {
    name: "the name of the registry's store is not synced",
    rule: "C7",
    file: "src/registry/service.ts",
    find: "    await files.syncFolder(path); // The name `kv`.\n",
    replace: "",
  },
  {
    name: "a new owner serves before what it recovered is synced",
    rule: "D3",
    file: "src/volume/recovery.ts",
    find: "    for (const segment of segments) await this.#world.disk.syncAsync(segment.file);\n",
    replace: "",
  },
  {
    name: "what is left of a cluster at the edge of a TRIM is not zeroed",
    rule: "A7",
    file: "src/volume/partial.ts",
    find: "    else world.arena.bytes.fill(0, target, target + bytes);\n",
    replace: "",
  },
  {
    name: "repair writes what another fragment holds",
    rule: "E1",
    file: "src/backend/repair.ts",
    find: "if (isLost) call.fail(view, f, page, pages, into, Failure.Missing);",
    replace: "if (isLost) call.fail(view, (f + 1) % view.k, page, pages, into, Failure.Missing);",
  },
  {
    name: "an ASD does not sync its pages before its index",
    rule: "ASD",
    file: "src/asd/commit.ts",
    find: "        if (files.size > 0) await this.#extents.sync(files);\n",
    replace: "",
  },
];
