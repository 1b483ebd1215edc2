// SPDX-License-Identifier: Apache-2.0
// The registry in an etcd cluster (v3.4 and later): a thin client that adds our limits and errors
// and nothing else. Each call goes to one endpoint, the next one after that was unreachable; it is
// never repeated here, because what it did is unknown (P-B1). A watch is a stream of its own; it
// asks for a leader, so that a member that is cut off ends it instead of staying silent.

import {
  type CallOptions,
  Client,
  type ClientDuplexStream,
  credentials,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { type ErrorCode, StorageError } from "../base/errors.js";
import { MIB } from "../base/units.js";
import type { Clock } from "../platform/world.js";
import { EtcdWatch } from "./etcdwatch.js";
import {
  ETCD_COMPARE_RESULT,
  ETCD_COMPARE_TARGET,
  type EtcdCompare,
  type EtcdMethod,
  type EtcdMethods,
  type EtcdOperation,
  entryOf,
  etcdMethods,
} from "./etcdwire.js";
import {
  checkKey,
  checkLease,
  checkPrefix,
  checkRange,
  checkRevision,
  checkTransaction,
  checkTtl,
} from "./limits.js";
import type {
  Compare,
  Operation,
  RangeResult,
  Registry,
  RegistryEntry,
  Transaction,
  TransactionResult,
  Watch,
  WatchHandler,
} from "./registry.js";

const TIMEOUT_MS = 5000;
const MESSAGE_BYTES_MAX = 64 * MIB;
const PAGE_KEYS = 128;
const RANGE_BYTES_MAX = 4 * MIB;
const WATCHES_MAX = 1000;
const KEEPALIVE_MS = 10_000;
const KEEPALIVE_TIMEOUT_MS = 5000;
const ZERO = Uint8Array.of(0);

export interface EtcdOptions {
  /** `host:port` of the members. */
  endpoints: readonly string[];
  /** Certificates in PEM; without them the connection is in the clear. */
  tls?: { ca: Uint8Array; key: Uint8Array; certificate: Uint8Array };
  /** How long a call waits for its answer. */
  timeoutMs?: number;
}

export class EtcdRegistry implements Registry {
  readonly #clock: Pick<Clock, "wallMs">;
  readonly #timeoutMs: number;
  readonly #methods: EtcdMethods = etcdMethods();
  readonly #clients: Client[];
  readonly #watches = new Set<EtcdWatch>();
  readonly #leader = new Metadata();
  #current = 0;
  #closed = false;

  /** Connects at the first call. */
  constructor(clock: Pick<Clock, "wallMs">, options: EtcdOptions) {
    const { endpoints, tls, timeoutMs = TIMEOUT_MS } = options;
    if (endpoints.length === 0) throw new StorageError("OVS_INVALID", "etcd has no endpoints");
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
    this.#leader.set("hasleader", "true");
    const secret = tls
      ? credentials.createSsl(
          Buffer.from(tls.ca),
          Buffer.from(tls.key),
          Buffer.from(tls.certificate),
        )
      : credentials.createInsecure();
    this.#clients = endpoints.map(
      (endpoint) =>
        new Client(endpoint, secret, {
          "grpc.enable_retries": 0,
          "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
          "grpc.max_send_message_length": MESSAGE_BYTES_MAX,
          "grpc.keepalive_time_ms": KEEPALIVE_MS,
          "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
          "grpc.initial_reconnect_backoff_ms": 100,
          "grpc.max_reconnect_backoff_ms": 1000,
        }),
    );
  }

  async get(key: string): Promise<RegistryEntry | null> {
    checkKey(key);
    const { kvs } = await this.#call(this.#methods.range, { key: Buffer.from(key) });
    return kvs.length === 0 ? null : entryOf(kvs[0]!);
  }

  async range(prefix: string, options: { after?: string; limit: number }): Promise<RangeResult> {
    checkRange(prefix, options);
    const { first, end } = prefixRange(prefix);
    let key = first;
    const behind = (name: string) => Buffer.concat([Buffer.from(name), ZERO]);
    if (options.after !== undefined && Buffer.compare(behind(options.after), first) > 0) {
      key = behind(options.after);
    }
    const entries: RegistryEntry[] = [];
    let revision = 0;
    for (let bytes = 0; ; ) {
      const limit = Math.min(PAGE_KEYS, options.limit - entries.length);
      const page = { key, range_end: end, limit, revision };
      const { kvs, more, header } = await this.#call(this.#methods.range, page);
      if (revision === 0) revision = Number(header.revision);
      for (const kv of kvs) {
        bytes += kv.key.byteLength + kv.value.byteLength;
        entries.push(entryOf(kv));
      }
      if (!more) return { entries, more: false, revision };
      if (entries.length >= options.limit || bytes >= RANGE_BYTES_MAX) {
        return { entries, more: true, revision };
      }
      key = behind(entries.at(-1)!.key);
    }
  }

  async transact(transaction: Transaction): Promise<TransactionResult> {
    checkTransaction(transaction);
    const { header, succeeded, responses } = await this.#call(this.#methods.transact, {
      compare: transaction.compares.map(etcdCompare),
      success: transaction.success.map(etcdOperation),
      failure: transaction.failure.map(etcdOperation),
    });
    const entries = responses.map(({ response_range: found }) =>
      found && found.kvs.length > 0 ? entryOf(found.kvs[0]!) : null,
    );
    return { succeeded, revision: Number(header.revision), entries };
  }

  async watch(prefix: string, fromRevision: number, handler: WatchHandler): Promise<Watch> {
    checkPrefix(prefix);
    checkRevision(fromRevision);
    if (this.#watches.size >= WATCHES_MAX) {
      throw new StorageError("OVS_BUSY", `more than ${WATCHES_MAX} watches`);
    }
    const { first, end } = prefixRange(prefix);
    const stream = this.#stream(this.#methods.watch, {});
    const watch = new EtcdWatch(stream, handler, () => this.#watches.delete(watch));
    this.#watches.add(watch);
    const create = { key: first, range_end: end, start_revision: fromRevision, fragment: true };
    stream.write({ create_request: create });
    try {
      await watch.created;
    } catch (error) {
      throw this.#errorOf(error);
    }
    return { cancel: () => watch.cancel() };
  }

  async leaseGrant(ttlSeconds: number): Promise<{ lease: string; ttlSeconds: number }> {
    checkTtl(ttlSeconds);
    const granted = await this.#call(this.#methods.grant, { TTL: ttlSeconds, ID: 0 });
    if (granted.error !== "") throw new StorageError("OVS_UNAVAILABLE", granted.error);
    return { lease: granted.ID, ttlSeconds: Number(granted.TTL) };
  }

  async leaseKeepAlive(lease: string): Promise<{ ttlSeconds: number }> {
    checkLease(lease);
    const { deadline } = this.#deadline();
    const stream = this.#stream(this.#methods.keepAlive, { deadline });
    try {
      const answer = await new Promise<{ TTL: string }>((resolve, reject) => {
        stream.once("data", resolve);
        stream.on("error", reject);
        stream.once("end", () => reject(new StorageError("OVS_UNAVAILABLE", "etcd hung up")));
        stream.write({ ID: lease });
      });
      const ttlSeconds = Number(answer.TTL);
      if (ttlSeconds > 0) return { ttlSeconds };
    } catch (error) {
      throw this.#errorOf(error);
    } finally {
      stream.cancel();
    }
    throw new StorageError("OVS_NOT_FOUND", `the lease ${lease} is gone`);
  }

  async leaseRevoke(lease: string): Promise<void> {
    checkLease(lease);
    await this.#call(this.#methods.revoke, { ID: lease });
  }

  /** Forgets the past up to and including `revision`, in the whole cluster. */
  async compact(revision: number): Promise<void> {
    await this.#call(this.#methods.compact, { revision, physical: false });
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const watch of [...this.#watches]) watch.end("this registry client is closed");
    for (const client of this.#clients) client.close();
  }

  #checkUsable(): void {
    if (this.#closed) throw new StorageError("OVS_CLOSED", "this registry client is closed");
  }

  #deadline(): CallOptions & { deadline: number } {
    return { deadline: this.#clock.wallMs() + this.#timeoutMs };
  }

  async #call<Request, Response>(
    method: EtcdMethod<Request, Response>,
    request: Request,
  ): Promise<Response> {
    this.#checkUsable();
    const client = this.#clients[this.#current]!;
    const { path, serialize, deserialize } = method;
    return await new Promise<Response>((resolve, reject) => {
      const done = (error: ServiceError | null, response?: Response) => {
        if (error) reject(this.#errorOf(error));
        else resolve(response!);
      };
      const metadata = new Metadata();
      client.makeUnaryRequest(
        path,
        serialize,
        deserialize,
        request,
        metadata,
        this.#deadline(),
        done,
      );
    });
  }

  #stream<Request, Response>(
    method: EtcdMethod<Request, Response>,
    options: CallOptions,
  ): ClientDuplexStream<Request, Response> {
    this.#checkUsable();
    const { path, serialize, deserialize } = method;
    const client = this.#clients[this.#current]!;
    return client.makeBidiStreamRequest(path, serialize, deserialize, this.#leader, options);
  }

  /** Our error for one of gRPC's; turns to the next member where this one cannot be reached. */
  #errorOf(error: unknown): unknown {
    if (error instanceof StorageError || !isServiceError(error)) return error;
    const code = codeOf(error);
    if (code === "OVS_UNAVAILABLE" || code === "OVS_TIMEOUT") {
      this.#current = (this.#current + 1) % this.#clients.length;
    }
    return new StorageError(code, `etcd: ${error.details || error.message}`, { cause: error });
  }
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && "details" in error;
}

function codeOf(error: ServiceError): ErrorCode {
  switch (error.code) {
    case status.DEADLINE_EXCEEDED:
      return "OVS_TIMEOUT";
    case status.NOT_FOUND:
      return "OVS_NOT_FOUND";
    case status.INVALID_ARGUMENT:
    case status.OUT_OF_RANGE:
      return "OVS_INVALID";
    case status.RESOURCE_EXHAUSTED:
      return error.details.includes("space") ? "OVS_FULL" : "OVS_BUSY";
    default:
      // Whatever else it says, the transaction may have been applied.
      return "OVS_UNAVAILABLE";
  }
}

/** All keys with a prefix, as etcd wants ranges. */
function prefixRange(prefix: string): { first: Buffer; end: Buffer } {
  if (prefix === "") return { first: Buffer.from(ZERO), end: Buffer.from(ZERO) };
  const first = Buffer.from(prefix);
  const end = Buffer.from(prefix);
  // The last byte of UTF-8 is never 255.
  end[end.byteLength - 1]! += 1;
  return { first, end };
}

function etcdCompare(compare: Compare): EtcdCompare {
  const result = ETCD_COMPARE_RESULT[compare.is];
  const target = ETCD_COMPARE_TARGET[compare.target];
  const key = Buffer.from(compare.key);
  switch (compare.target) {
    case "value":
      return { result, target, key, value: compare.value };
    case "version":
      return { result, target, key, version: compare.number };
    case "createRevision":
      return { result, target, key, create_revision: compare.number };
    case "modRevision":
      return { result, target, key, mod_revision: compare.number };
  }
}

function etcdOperation(operation: Operation): EtcdOperation {
  switch (operation.kind) {
    case "put": {
      const { value, lease = "0" } = operation;
      return { request_put: { key: Buffer.from(operation.key), value, lease } };
    }
    case "get":
      return { request_range: { key: Buffer.from(operation.key) } };
    case "delete":
      return { request_delete_range: { key: Buffer.from(operation.key) } };
    case "deletePrefix": {
      const { first, end } = prefixRange(operation.prefix);
      return { request_delete_range: { key: first, range_end: end } };
    }
  }
}
