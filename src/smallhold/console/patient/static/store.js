// What this device keeps: the newest state of one patient, and what is not sent yet. In IndexedDB, so that closing the
// page, or a dead battery, loses nothing.

const NAME = "smallhold-patient";

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const finished = (transaction) =>
  new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });

export class Store {
  static async open() {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("kept");
      request.result.createObjectStore("queue", { keyPath: "seq", autoIncrement: true });
    };
    return new Store(await done(request));
  }

  constructor(database) {
    this.database = database;
  }

  get(name) {
    return done(this.database.transaction("kept").objectStore("kept").get(name));
  }

  async set(name, value) {
    const transaction = this.database.transaction("kept", "readwrite", { durability: "strict" });
    transaction.objectStore("kept").put(value, name);
    await finished(transaction);
  }

  /** Keep an action until the server has answered for it; resolves when it is on the disk. */
  async queue(patient, action) {
    const transaction = this.database.transaction("queue", "readwrite", { durability: "strict" });
    transaction.objectStore("queue").add({ patient, action });
    await finished(transaction);
  }

  /** What waits for one patient, oldest first. */
  async waiting(patient) {
    const all = await done(this.database.transaction("queue").objectStore("queue").getAll());
    return all.filter((item) => item.patient === patient);
  }

  async countWaiting() {
    return done(this.database.transaction("queue").objectStore("queue").count());
  }

  async remove(seqs) {
    const transaction = this.database.transaction("queue", "readwrite", { durability: "strict" });
    for (const seq of seqs) transaction.objectStore("queue").delete(seq);
    await finished(transaction);
  }

  /** What another patient left goes; what this one could not send stays. */
  async keepOnly(patient) {
    const transaction = this.database.transaction(["queue", "kept"], "readwrite", { durability: "strict" });
    const queue = transaction.objectStore("queue");
    transaction.objectStore("kept").clear();
    queue.getAll().onsuccess = ({ target }) => {
      for (const item of target.result) if (item.patient !== patient) queue.delete(item.seq);
    };
    await finished(transaction);
  }

  async clear() {
    const transaction = this.database.transaction(["queue", "kept"], "readwrite", { durability: "strict" });
    transaction.objectStore("queue").clear();
    transaction.objectStore("kept").clear();
    await finished(transaction);
  }
}
