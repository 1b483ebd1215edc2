// SPDX-License-Identifier: Apache-2.0
// The part of etcd's v3 protocol that we speak, as data: names, numbers and types of the fields.
// What is not listed here is skipped by the decoder and left at its default by the encoder.

import { fromJSON } from "@grpc/proto-loader";
import type { RegistryEntry } from "./registry.js";

type Fields = Record<string, { type: string; id: number; rule?: "repeated" }>;

/** `"bytes key 1"` or `"repeated Event events 11"`, one for each field. */
function message(...lines: string[]): { fields: Fields } {
  const fields: Fields = {};
  for (const line of lines) {
    const words = line.split(" ");
    const repeated = words[0] === "repeated";
    const [type, name, id] = repeated ? words.slice(1) : words;
    fields[name!] = { type: type!, id: Number(id), ...(repeated ? { rule: "repeated" } : {}) };
  }
  return { fields };
}

/** A message of which at most one field is set. */
function choice(name: string, ...lines: string[]) {
  const { fields } = message(...lines);
  return { fields, oneofs: { [name]: { oneof: Object.keys(fields) } } };
}

function method(requestType: string, responseType: string, stream = false) {
  return { requestType, responseType, requestStream: stream, responseStream: stream };
}

const COMPARE_TARGETS = ["version 4", "create_revision 5", "mod_revision 6"];

const etcdserverpb = {
  KV: {
    methods: {
      Range: method("RangeRequest", "RangeResponse"),
      Txn: method("TxnRequest", "TxnResponse"),
      Compact: method("CompactionRequest", "CompactionResponse"),
    },
  },
  Watch: { methods: { Watch: method("WatchRequest", "WatchResponse", true) } },
  Lease: {
    methods: {
      LeaseGrant: method("LeaseGrantRequest", "LeaseGrantResponse"),
      LeaseRevoke: method("LeaseRevokeRequest", "LeaseRevokeResponse"),
      LeaseKeepAlive: method("LeaseKeepAliveRequest", "LeaseKeepAliveResponse", true),
    },
  },
  ResponseHeader: message("int64 revision 3"),
  RangeRequest: message("bytes key 1", "bytes range_end 2", "int64 limit 3", "int64 revision 4"),
  RangeResponse: message(
    "ResponseHeader header 1",
    "repeated mvccpb.KeyValue kvs 2",
    "bool more 3",
  ),
  PutRequest: message("bytes key 1", "bytes value 2", "int64 lease 3"),
  PutResponse: message("ResponseHeader header 1"),
  DeleteRangeRequest: message("bytes key 1", "bytes range_end 2"),
  DeleteRangeResponse: message("ResponseHeader header 1", "int64 deleted 2"),
  RequestOp: choice(
    "request",
    "RangeRequest request_range 1",
    "PutRequest request_put 2",
    "DeleteRangeRequest request_delete_range 3",
  ),
  ResponseOp: choice(
    "response",
    "RangeResponse response_range 1",
    "PutResponse response_put 2",
    "DeleteRangeResponse response_delete_range 3",
  ),
  Compare: {
    fields: {
      ...message("int32 result 1", "int32 target 2", "bytes key 3").fields,
      ...message(...COMPARE_TARGETS.map((target) => `int64 ${target}`), "bytes value 7").fields,
    },
    oneofs: {
      target_union: { oneof: ["version", "create_revision", "mod_revision", "value"] },
    },
  },
  TxnRequest: message(
    "repeated Compare compare 1",
    "repeated RequestOp success 2",
    "repeated RequestOp failure 3",
  ),
  TxnResponse: message(
    "ResponseHeader header 1",
    "bool succeeded 2",
    "repeated ResponseOp responses 3",
  ),
  CompactionRequest: message("int64 revision 1", "bool physical 2"),
  CompactionResponse: message("ResponseHeader header 1"),
  WatchRequest: choice("request_union", "WatchCreateRequest create_request 1"),
  WatchCreateRequest: message(
    "bytes key 1",
    "bytes range_end 2",
    "int64 start_revision 3",
    "bool fragment 8",
  ),
  WatchResponse: message(
    "ResponseHeader header 1",
    "bool created 3",
    "bool canceled 4",
    "int64 compact_revision 5",
    "string cancel_reason 6",
    "bool fragment 7",
    "repeated mvccpb.Event events 11",
  ),
  LeaseGrantRequest: message("int64 TTL 1", "int64 ID 2"),
  LeaseGrantResponse: message(
    "ResponseHeader header 1",
    "int64 ID 2",
    "int64 TTL 3",
    "string error 4",
  ),
  LeaseRevokeRequest: message("int64 ID 1"),
  LeaseRevokeResponse: message("ResponseHeader header 1"),
  LeaseKeepAliveRequest: message("int64 ID 1"),
  LeaseKeepAliveResponse: message("ResponseHeader header 1", "int64 ID 2", "int64 TTL 3"),
};

const mvccpb = {
  KeyValue: message(
    "bytes key 1",
    "int64 create_revision 2",
    "int64 mod_revision 3",
    "int64 version 4",
    "bytes value 5",
    "int64 lease 6",
  ),
  Event: message("int32 type 1", "KeyValue kv 2"),
};

/** Of Compare.result. */
export const ETCD_COMPARE_RESULT = { "=": 0, ">": 1, "<": 2, "!=": 3 } as const;
/** Of Compare.target. */
export const ETCD_COMPARE_TARGET = {
  version: 0,
  createRevision: 1,
  modRevision: 2,
  value: 3,
} as const;
/** Of Event.type. */
export const ETCD_EVENT_DELETE = 1;

// 64-bit numbers are texts: leases use all bits. Absent fields come as their defaults.

export interface EtcdKeyValue {
  key: Uint8Array;
  create_revision: string;
  mod_revision: string;
  version: string;
  value: Uint8Array;
  lease: string;
}

export interface EtcdHeader {
  revision: string;
}

export interface EtcdRange {
  key: Uint8Array;
  range_end?: Uint8Array;
  limit?: number;
  revision?: number;
}

export interface EtcdRangeResult {
  header: EtcdHeader;
  kvs: EtcdKeyValue[];
  more: boolean;
}

export interface EtcdCompare {
  result: number;
  target: number;
  key: Uint8Array;
  version?: number;
  create_revision?: number;
  mod_revision?: number;
  value?: Uint8Array;
}

export interface EtcdOperation {
  request_range?: EtcdRange;
  request_put?: { key: Uint8Array; value: Uint8Array; lease: string };
  request_delete_range?: { key: Uint8Array; range_end?: Uint8Array };
}

export interface EtcdTransaction {
  compare: EtcdCompare[];
  success: EtcdOperation[];
  failure: EtcdOperation[];
}

export interface EtcdTransactionResult {
  header: EtcdHeader;
  succeeded: boolean;
  responses: Array<{ response_range?: EtcdRangeResult }>;
}

export interface EtcdWatchRequest {
  create_request: {
    key: Uint8Array;
    range_end: Uint8Array;
    start_revision: number;
    fragment: boolean;
  };
}

export interface EtcdWatchResponse {
  created: boolean;
  canceled: boolean;
  compact_revision: string;
  cancel_reason: string;
  fragment: boolean;
  events: Array<{ type: number; kv: EtcdKeyValue }>;
}

export interface EtcdLease {
  ID: string;
  TTL: string;
}

/** Ours for one of etcd's. */
export function entryOf(kv: EtcdKeyValue): RegistryEntry {
  return {
    key: Buffer.from(kv.key).toString(),
    value: new Uint8Array(kv.value),
    createRevision: Number(kv.create_revision),
    modRevision: Number(kv.mod_revision),
    version: Number(kv.version),
    lease: kv.lease,
  };
}

/** How a method is called: its path, and the way of its messages to bytes and back. */
export interface EtcdMethod<Request, Response> {
  path: string;
  /** The request as protobuf bytes. */
  serialize: (request: Request) => Buffer;
  /** The response from protobuf bytes. */
  deserialize: (bytes: Buffer) => Response;
}

export interface EtcdMethods {
  range: EtcdMethod<EtcdRange, EtcdRangeResult>;
  transact: EtcdMethod<EtcdTransaction, EtcdTransactionResult>;
  compact: EtcdMethod<{ revision: number; physical: boolean }, { header: EtcdHeader }>;
  watch: EtcdMethod<EtcdWatchRequest, EtcdWatchResponse>;
  grant: EtcdMethod<{ TTL: number; ID: number }, EtcdLease & { error: string }>;
  revoke: EtcdMethod<{ ID: string }, { header: EtcdHeader }>;
  keepAlive: EtcdMethod<{ ID: string }, EtcdLease>;
}

/** Builds the codecs of all methods. */
export function etcdMethods(): EtcdMethods {
  const nested = (types: object) => ({ nested: types }) as Record<string, object>;
  const services = fromJSON(
    { nested: { etcdserverpb: nested(etcdserverpb), mvccpb: nested(mvccpb) } },
    { longs: String, defaults: true, arrays: true, keepCase: true },
  );
  const find = <Request, Response>(
    service: string,
    name: string,
  ): EtcdMethod<Request, Response> => {
    const methods = services[`etcdserverpb.${service}`] as unknown as Record<
      string,
      {
        path: string;
        requestSerialize: (request: Request) => Buffer;
        responseDeserialize: (bytes: Buffer) => Response;
      }
    >;
    const { path, requestSerialize, responseDeserialize } = methods[name]!;
    return { path, serialize: requestSerialize, deserialize: responseDeserialize };
  };
  return {
    range: find("KV", "Range"),
    transact: find("KV", "Txn"),
    compact: find("KV", "Compact"),
    watch: find("Watch", "Watch"),
    grant: find("Lease", "LeaseGrant"),
    revoke: find("Lease", "LeaseRevoke"),
    keepAlive: find("Lease", "LeaseKeepAlive"),
  };
}
