// SPDX-License-Identifier: Apache-2.0
// What the embedded registry keeps in its key-value store, and the messages of its service.

import * as f from "../schema.js";

// Limits of registry/registry.ts; a test compares them.
const KEY_BYTES_MAX = 512;
const VALUE_BYTES_MAX = 64 * 1024;
const ITEMS_MAX = 100;
const RANGE_ITEMS_MAX = 10_000;

const CompareTarget = f.codes("CompareTarget", {
  version: { value: 1, doc: "changes since the key was made" },
  createRevision: { value: 2, doc: "revision that made the key" },
  modRevision: { value: 3, doc: "revision that last changed it" },
  value: { value: 4, doc: "its bytes" },
});

const CompareIs = f.codes("CompareIs", {
  equal: { value: 1, doc: "=" },
  less: { value: 2, doc: "<, the key's on the left" },
  greater: { value: 3, doc: ">" },
  different: { value: 4, doc: "!=" },
});

const OperationKind = f.codes("OperationKind", {
  put: { value: 1, doc: "sets key, value and lease" },
  delete: { value: 2, doc: "deletes the key" },
  deletePrefix: { value: 3, doc: "deletes all keys that begin so" },
  get: { value: 4, doc: "answers with the entry" },
});

const EventKind = f.codes("EventKind", {
  put: { value: 1, doc: "the key has a new value" },
  delete: { value: 2, doc: "the key is gone" },
});

const RegistryIdentity = f.format({
  name: "RegistryIdentity",
  purpose: "File `identity` in the folder of an embedded registry.",
  magic: "OVRI",
  version: 1,
  lies: "disk",
  body: "inside",
  fields: {
    magic: f.magic(),
    version: f.version(),
    folderVersion: f.u16("version of the folder's layout"),
    registryUuid: f.uuid("this registry, made with its folder"),
    createdMs: f.u64("wall clock, for people"),
    reserved0: f.reserved(32),
    length: f.length(),
    headerCrc: f.headerCrc(),
  },
});

const RegistryRecord = f.struct({
  name: "RegistryRecord",
  purpose: "A key's present value in the embedded registry's store.",
  fields: {
    createRevision: f.u64("revision that made the key"),
    modRevision: f.u64("revision that last changed it"),
    version: f.u64("1 when made, one more for each change"),
    lease: f.u64big("lease that the key dies with, 0 for none"),
    value: f.blob("u32", VALUE_BYTES_MAX, "its bytes"),
  },
});

const RegistryState = f.struct({
  name: "RegistryState",
  purpose: "What the embedded registry's store says of itself, in the same batch as each change.",
  fields: { revision: f.u64("of the last transaction that wrote") },
});

const RegistryLease = f.struct({
  name: "RegistryLease",
  purpose: "A lease in the embedded registry's store.",
  fields: { ttlSeconds: f.u32("what it was granted for") },
});

const RegistryItem = f.struct({
  name: "RegistryItem",
  purpose: "A key with its value on the wire.",
  fields: {
    createRevision: f.u64("revision that made the key"),
    modRevision: f.u64("revision that last changed it"),
    version: f.u64("1 when made, one more for each change"),
    lease: f.u64big("lease that the key dies with, 0 for none"),
    key: f.text("u16", KEY_BYTES_MAX, "the key"),
    value: f.blob("u32", VALUE_BYTES_MAX, "its bytes"),
  },
});

const RegistryCompare = f.struct({
  name: "RegistryCompare",
  purpose: "One condition of a transaction.",
  fields: {
    target: f.code(CompareTarget, "what is compared"),
    is: f.code(CompareIs, "how"),
    number: f.u64("with what, unless it is the value"),
    key: f.text("u16", KEY_BYTES_MAX, "of which key"),
    value: f.blob("u32", VALUE_BYTES_MAX, "with what, if it is the value"),
  },
});

const RegistryOperation = f.struct({
  name: "RegistryOperation",
  purpose: "One operation of a transaction.",
  fields: {
    kind: f.code(OperationKind, "what is done"),
    lease: f.u64big("put: lease that the key dies with, 0 for none"),
    key: f.text("u16", KEY_BYTES_MAX, "key or prefix"),
    value: f.blob("u32", VALUE_BYTES_MAX, "put: the bytes"),
  },
});

const RegistryTransaction = f.message({
  name: "RegistryTransaction",
  purpose: "Request of TRANSACT.",
  fields: {
    compares: f.list("u16", RegistryCompare, ITEMS_MAX, "all must hold for success"),
    success: f.list("u16", RegistryOperation, ITEMS_MAX, "done when they hold"),
    failure: f.list("u16", RegistryOperation, ITEMS_MAX, "done when they do not"),
  },
});

const RegistryFound = f.struct({
  name: "RegistryFound",
  purpose: "What a get of a transaction found.",
  fields: {
    index: f.u16("which operation of the branch"),
    item: f.one(RegistryItem, "the entry"),
  },
});

const RegistryTransacted = f.message({
  name: "RegistryTransacted",
  purpose: "Answer of TRANSACT.",
  fields: {
    succeeded: f.u8("1: the compares held"),
    revision: f.u64("of the store after the transaction"),
    operations: f.u16("operations of the branch that ran"),
    found: f.list("u16", RegistryFound, ITEMS_MAX, "entries of its gets, where there is one"),
  },
});

const RegistryGet = f.message({
  name: "RegistryGet",
  purpose: "Request of GET.",
  fields: { key: f.text("u16", KEY_BYTES_MAX, "the key") },
});

const RegistryRange = f.message({
  name: "RegistryRange",
  purpose: "Request of RANGE.",
  fields: {
    limit: f.u32("most entries in the answer"),
    follows: f.u8("1: only keys behind `after`"),
    prefix: f.text("u16", KEY_BYTES_MAX, "what the keys begin with"),
    after: f.text("u16", KEY_BYTES_MAX, "last key of the page before"),
  },
});

const RegistryItems = f.message({
  name: "RegistryItems",
  purpose: "Answer of GET (at most one item) and RANGE.",
  fields: {
    revision: f.u64("of the store when it was read; 0 for GET"),
    more: f.u8("1: more keys follow"),
    items: f.list("u32", RegistryItem, RANGE_ITEMS_MAX, "the entries, in order"),
  },
});

const RegistryWatch = f.message({
  name: "RegistryWatch",
  purpose: "Request of WATCH; its answer is empty.",
  fields: {
    watch: f.u64("number that the client gives it"),
    fromRevision: f.u64("first revision of interest"),
    prefix: f.text("u16", KEY_BYTES_MAX, "what the keys begin with"),
  },
});

const RegistryChange = f.struct({
  name: "RegistryChange",
  purpose: "One event of a watch.",
  fields: {
    kind: f.code(EventKind, "what happened"),
    item: f.one(RegistryItem, "the entry after it"),
  },
});

const RegistryEvents = f.message({
  name: "RegistryEvents",
  purpose: "One-way frame EVENTS: a transaction's events for one watch.",
  fields: {
    watch: f.u64("number of the watch"),
    revision: f.u64("of the transaction"),
    changes: f.list("u32", RegistryChange, RANGE_ITEMS_MAX, "in the order they were made"),
  },
});

const RegistryWatchEnd = f.message({
  name: "RegistryWatchEnd",
  purpose: "One-way frame WATCH_END, either way: this watch is over.",
  fields: {
    watch: f.u64("number of the watch"),
    reason: f.text("u16", 1024, "why, in words"),
  },
});

const RegistryLeaseCall = f.message({
  name: "RegistryLeaseCall",
  purpose: "Request and answer of the lease operations.",
  fields: {
    lease: f.u64big("the lease; 0 in the request of GRANT"),
    ttlSeconds: f.u32("time to live; 0 in the request of KEEP_ALIVE and REVOKE"),
  },
});

export default f.area({
  name: "registry",
  purpose: "The embedded registry's folder, store and service.",
  constants: { REGISTRY_FOLDER_VERSION: { value: 1, doc: "version of the folder's layout" } },
  codes: [CompareTarget, CompareIs, OperationKind, EventKind],
  parts: [
    RegistryIdentity,
    RegistryRecord,
    RegistryState,
    RegistryLease,
    RegistryItem,
    RegistryCompare,
    RegistryOperation,
    RegistryTransaction,
    RegistryFound,
    RegistryTransacted,
    RegistryGet,
    RegistryRange,
    RegistryItems,
    RegistryWatch,
    RegistryChange,
    RegistryEvents,
    RegistryWatchEnd,
    RegistryLeaseCall,
  ],
});
