// SPDX-License-Identifier: Apache-2.0
// Files as the hot path sees them: a ring where operations are staged as numbers and leave in one
// system call at the end of the turn; completions come once a turn, a number each.
//
// An operation names its file (a small number), its place in the file, its memory in the thread's
// arena, and a tag of 24 bits that the handler understands. Results are bytes done, or -errno.
// A short read or write is completed by the ring itself; a read past the end of the file returns
// what there is. Completions arrive in any order.

export type FileId = number;
export type HandlerId = number;

/**
 * Called per finished operation, inside a turn. `result`: bytes or 0, or -errno. Must not throw.
 */
export type CompletionHandler = (tag: number, result: number) => void;

export const DISK_TAG_MAX = 2 ** 24 - 1;
/** Operations of all handlers together that may be staged or in flight; one more is OVS_BUSY. */
export const DISK_DEPTH_MAX = 4096;
/** Pieces of one gathered or scattered operation. */
export const DISK_PIECES_MAX = 1024;

export interface OpenOptions {
  /** Create the file when it is missing. */
  create: boolean;
  /** Fail when it exists already (with create). */
  exclusive: boolean;
  write: boolean;
  /** O_DIRECT: offsets, lengths and memory are multiples of 4 KiB. */
  direct: boolean;
}

export interface FileStat {
  sizeBytes: number;
  /** Bytes that the file occupies. */
  allocatedBytes: number;
  kind: "file" | "folder" | "block";
}

/** The part that is for control: paths, promises, objects. Paths are absolute. */
export interface Files {
  /** Makes the folder and those above it (0700); fine when it is there. Durable on return. */
  makeFolder(path: string): Promise<void>;
  /** The names in a folder, sorted, without `.` and `..`. */
  list(path: string): Promise<string[]>;
  /** Null when there is nothing. */
  stat(path: string): Promise<FileStat | null>;
  /** Removes a file, or a folder with all in it; missing is fine. */
  remove(path: string): Promise<void>;
  /** Renames over whatever is there; durable only after syncFolder. */
  rename(source: string, target: string): Promise<void>;
  /** Whole content of a small file; null when there is none. */
  readSmall(path: string, bytesMax: number): Promise<Uint8Array | null>;
  /**
   * Replaces a small file so that after a crash it is the old or the new one; 0600; durable on
   * return.
   */
  writeSmall(path: string, content: Uint8Array): Promise<void>;
  /** fsync of a folder: the names in it are durable on return. */
  syncFolder(path: string): Promise<void>;
  /** Free and total bytes of the file system that holds the path. */
  space(path: string): Promise<{ freeBytes: number; totalBytes: number }>;
  /**
   * Takes the folder for this process (flock on `<path>/lock`, which then holds the pid).
   * Throws OVS_BUSY naming the pid that holds it. Released by `release` or the process's death.
   */
  lock(path: string): Promise<{ release(): Promise<void> }>;
}

export interface Disk {
  readonly files: Files;
  /** "io_uring", "fs" (the fallback) or "simulated". */
  readonly engine: string;

  /**
   * Opens a file or a block device; a file is created with 0600. Without O_DIRECT on that file
   * system it is opened without, with a warning. To write, a file is open once at a time: waits for
   * the requests of a process that has ended meanwhile, since its writes may still reach the disk;
   * OVS_BUSY after 10 s. Else OVS_NOT_FOUND, OVS_EXISTS, OVS_FULL, OVS_INVALID (a folder),
   * OVS_CLOSED, OVS_DISK_FAILED.
   */
  open(path: string, options: OpenOptions): Promise<FileId>;
  /** Closes after everything in flight on the file is done. */
  close(file: FileId): Promise<void>;
  /** Size of an open file. */
  size(file: FileId): Promise<number>;

  /** Registers a handler of completions; ids are never reused while the disk lives. */
  handler(handler: CompletionHandler): HandlerId;

  // Staged operations. All borrow their arena range until the completion. They throw OVS_BUSY when
  // DISK_DEPTH_MAX are in flight; bad places, lengths or alignment are assertions.
  /** Reads into the arena; the result is short where the file ends. */
  read(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    arena: number,
    bytes: number,
  ): void;
  /**
   * As read, but the completion may be told only when those of all reads like it that were staged
   * in the same turn have come: whoever waits for all of them is woken once.
   */
  readTogether(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    arena: number,
    bytes: number,
  ): void;
  /** Writes from the arena; durable only after a sync. */
  write(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    arena: number,
    bytes: number,
  ): void;
  /**
   * One write gathered from `count` pieces: pieces[2i] = arena offset, pieces[2i+1] = bytes. Copies
   * the list.
   */
  writeGather(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    pieces: Uint32Array,
    count: number,
  ): void;
  /** One read scattered over `count` pieces, as writeGather. */
  readScatter(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    pieces: Uint32Array,
    count: number,
  ): void;
  /** fdatasync: covers every write of the file that was completed before this call. */
  sync(handler: HandlerId, tag: number, file: FileId): void;
  /** Allocates blocks (file grows to offset+bytes). */
  allocate(handler: HandlerId, tag: number, file: FileId, offset: number, bytes: number): void;
  /** Punches a hole: the range reads zeroes and its blocks are free. */
  punch(handler: HandlerId, tag: number, file: FileId, offset: number, bytes: number): void;
  /** Sets the file's size. */
  truncate(handler: HandlerId, tag: number, file: FileId, bytes: number): void;

  /** Operations that were staged or are in flight, of all handlers. */
  readonly inFlight: number;

  // The same with promises, for control paths. Reject with OVS_FULL when there is no
  // room, else with OVS_DISK_FAILED; both name path and errno. At most 512 run, the others wait.
  /** As read: resolves with the bytes read, fewer where the file ends. */
  readAsync(file: FileId, offset: number, arena: number, bytes: number): Promise<number>;
  /** As write. */
  writeAsync(file: FileId, offset: number, arena: number, bytes: number): Promise<void>;
  /** As sync. */
  syncAsync(file: FileId): Promise<void>;
  /** As allocate. */
  allocateAsync(file: FileId, offset: number, bytes: number): Promise<void>;
  /** As punch. */
  punchAsync(file: FileId, offset: number, bytes: number): Promise<void>;
  /** As truncate. */
  truncateAsync(file: FileId, bytes: number): Promise<void>;

  /** Waits for what is in flight, closes all files. */
  stop(): Promise<void>;
}
