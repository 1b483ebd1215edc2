// SPDX-License-Identifier: Apache-2.0
// One watch of an etcd registry. etcd puts several revisions into one response and cuts large
// responses into fragments, also in the middle of a revision; the handler gets one call a
// transaction all the same: events are held until the next revision or the end of the response.

import type { ClientDuplexStream } from "@grpc/grpc-js";
import { messageOf, StorageError } from "../base/errors.js";
import { type Deferred, deferred } from "../base/sync.js";
import {
  ETCD_EVENT_DELETE,
  type EtcdWatchRequest,
  type EtcdWatchResponse,
  entryOf,
} from "./etcdwire.js";
import type { WatchEvent, WatchHandler } from "./registry.js";

export class EtcdWatch {
  readonly #stream: ClientDuplexStream<EtcdWatchRequest, EtcdWatchResponse>;
  readonly #handler: WatchHandler;
  readonly #onOver: () => void;
  readonly #created: Deferred<void> = deferred<void>();
  #isCreated = false;
  #isOver = false;
  #held: WatchEvent[] = [];
  #heldRevision = 0;

  constructor(
    stream: ClientDuplexStream<EtcdWatchRequest, EtcdWatchResponse>,
    handler: WatchHandler,
    onOver: () => void,
  ) {
    this.#stream = stream;
    this.#handler = handler;
    this.#onOver = onOver;
    stream.on("data", (response: EtcdWatchResponse) => this.#onResponse(response));
    stream.on("error", (error: Error) => this.#over(error));
    stream.on("end", () => this.#over(new StorageError("OVS_UNAVAILABLE", "etcd hung up")));
  }

  /** Rejects when the watch could not begin; the handler is told nothing then. */
  get created(): Promise<void> {
    return this.#created.promise;
  }

  /** As Watch.cancel. */
  cancel(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#onOver();
    this.#stream.cancel();
  }

  /** Ends it for a reason of our own. */
  end(reason: string): void {
    this.#over(new StorageError("OVS_CLOSED", reason));
  }

  #onResponse(response: EtcdWatchResponse): void {
    if (this.#isOver) return;
    if (response.created) {
      this.#isCreated = true;
      this.#created.resolve();
    }
    for (const { type, kv } of response.events) {
      const revision = Number(kv.mod_revision);
      if (revision !== this.#heldRevision) this.#tell();
      if (this.#isOver) return;
      this.#heldRevision = revision;
      this.#held.push({ kind: type === ETCD_EVENT_DELETE ? "delete" : "put", entry: entryOf(kv) });
    }
    if (!response.fragment) this.#tell();
    if (!response.canceled || this.#isOver) return;
    const compacted = Number(response.compact_revision);
    const reason =
      compacted > 0
        ? `the revision is compacted, the past begins at ${compacted}`
        : response.cancel_reason || "etcd ended the watch";
    this.#over(new StorageError("OVS_UNAVAILABLE", reason));
  }

  #tell(): void {
    if (this.#held.length === 0) return;
    const events = this.#held;
    this.#held = [];
    this.#handler.onEvents(events, this.#heldRevision);
  }

  #over(error: Error): void {
    if (this.#isOver) return;
    this.cancel();
    if (this.#isCreated) this.#handler.onEnd(messageOf(error));
    else this.#created.reject(error);
  }
}
