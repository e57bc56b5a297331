// Asks a server what test_other_clients.py says, with @grpc/grpc-js, which is installed in FOLDER:
//   node node.mjs FOLDER PROTOCOL-FOLDER ADDRESS [CA CERT KEY]
//   node node.mjs FOLDER PROTOCOL-FOLDER ADDRESS go-on
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const [folder, protocol, address, ...rest] = process.argv.slice(2);
const require = createRequire(folder + "/");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const files = ["inference.proto", "health.proto", "reflection.proto"].map((name) => `${protocol}/${name}`);
const api = grpc.loadPackageDefinition(loader.loadSync(files, { keepCase: true, longs: Number, enums: String, oneofs: true }));
const credentials =
  rest.length === 3
    ? grpc.credentials.createSsl(...[rest[0], rest[2], rest[1]].map((file) => readFileSync(file)))
    : grpc.credentials.createInsecure();
const options = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 };
const open = (Service, more = {}) => new Service(address, credentials, { ...options, ...more });
const client = open(api.inference.GRPCInferenceService);
const told = (step, result) => console.log(`${step} ${result}`);

function call(from, method, request, options = {}, metadata = new grpc.Metadata(), begun = () => {}) {
  return new Promise((resolve) => {
    begun(from[method](request, metadata, options, (error, answer) => resolve(error ? { error } : { answer })));
  });
}

function echo(size, id = "") {
  const sent = Buffer.from(Uint8Array.from({ length: size }, (_, at) => (at * 7) & 255));
  const inputs = [{ name: "x", datatype: "UINT8", shape: [1, size] }];
  return { sent, request: { model_name: "echo", id, inputs, raw_input_contents: [sent] } };
}

function slow(turns) {
  const turnsOf = Buffer.alloc(8);
  turnsOf.writeBigInt64LE(BigInt(turns));
  const inputs = [{ name: "turns", datatype: "INT64", shape: [1] }];
  return { model_name: "slow", inputs, raw_input_contents: [turnsOf] };
}

const same = ({ answer, error }, sent) =>
  error ? `${error.code} ${error.details}` : answer.raw_output_contents[0].equals(sent) ? "same" : "other";

async function echoed(size, from = client, metadata = undefined, options = {}) {
  const { sent, request } = echo(size);
  return same(await call(from, "ModelInfer", request, options, metadata), sent);
}

async function sizes() {
  const all = [1, 4 * 2 ** 20 + 1, 12 * 2 ** 20];
  for (const base of [2 ** 14, 2 ** 16, 2 ** 18, 2 ** 20]) for (let less = 0; less < 96; less += 5) all.push(base - less);
  for (const size of all) {
    const result = await echoed(size);
    if (result !== "same") return `${size}: ${result}`;
  }
  return "same";
}

async function turns() {
  const stream = client.ModelStreamInfer();
  const answers = stream[Symbol.asyncIterator]();
  const ids = [];
  for (let n = 0; n < 5; n++) {
    stream.write(echo(100_000, String(n)).request);
    ids.push((await answers.next()).value.infer_response.id);
  }
  stream.end();
  return ids.join(",") + ((await answers.next()).done ? " end" : " more");
}

async function unhurried() {
  const stream = client.ModelStreamInfer();
  const { sent, request } = echo(4 * 2 ** 20);
  for (let n = 0; n < 6; n++) stream.write(request);
  stream.end();
  stream.pause();
  await sleep(1500);
  let count = 0;
  for await (const { infer_response } of stream) {
    count += infer_response.raw_output_contents[0].equals(sent) ? 1 : 0;
    await sleep(50);
  }
  return count;
}

async function steps() {
  told("sizes", await sizes());
  const many = await Promise.all(Array.from({ length: 64 }, (_, n) => echoed(1000 + 1000 * n)));
  told("many", many.filter((result) => result === "same").length);
  told("turns", await turns());
  told("unhurried", await unhurried());
  const late = await call(client, "ModelInfer", slow(1e6), { deadline: Date.now() + 200 });
  told("late", late.error?.code);
  const cancelled = await call(client, "ModelInfer", slow(1e6), {}, undefined, (it) => setTimeout(() => it.cancel(), 100));
  told("cancelled", cancelled.error?.code);
  told("missing", same(await call(client, "ModelInfer", { model_name: "grün 100 %" })));
  told("large", (await call(client, "ModelInfer", echo(17 * 2 ** 20).request)).error?.code);
  const nothing = new grpc.Client(address, credentials);
  const unknown = await new Promise((resolve) =>
    nothing.makeUnaryRequest("/inference.GRPCInferenceService/Nothing", (x) => x, (x) => x, Buffer.alloc(0), resolve));
  told("unknown", unknown.code);
  const metadata = new grpc.Metadata();
  metadata.set("odd-bin", Buffer.from([0, 255, 10, 13]));
  metadata.add("twice", "one");
  metadata.add("twice", "two");
  told("metadata", await echoed(10, client, metadata));
  told("gzip", await echoed(300_000, open(api.inference.GRPCInferenceService, { "grpc.default_compression_algorithm": 2 })));
  const health = open(api.grpc.health.v1.Health);
  told("health", (await call(health, "Check", { service: "" })).answer.status);
  const watch = health.Watch({ service: "" });
  const { value } = await watch[Symbol.asyncIterator]().next();
  told("watch", value.status);
  watch.on("error", () => {});
  watch.cancel();
  const reflection = open(api.grpc.reflection.v1.ServerReflection).ServerReflectionInfo();
  reflection.write({ list_services: "*" });
  for await (const { list_services_response } of reflection) {
    told("services", list_services_response.service.map((one) => one.name).sort().join(","));
    reflection.end();
  }
  const pinging = open(api.inference.GRPCInferenceService, { "grpc.keepalive_time_ms": 20, "grpc.keepalive_timeout_ms": 5000 });
  told("pings", (await call(pinging, "ModelInfer", slow(2e5))).error?.code ?? 0);
}

async function goOn() {
  let [ended, calls] = [false, 0];
  const failed = {};
  process.stdin.on("end", () => (ended = true)).resume();
  await Promise.all(Array.from({ length: 8 }, async () => {
    while (!ended) {
      const result = await echoed(2000);
      calls += 1;
      if (result !== "same") failed[result] = (failed[result] ?? 0) + 1;
      if (calls === 100) told("begun", calls);
    }
  }));
  told("calls", calls);
  told("failed", Object.keys(failed).length ? JSON.stringify(failed) : "");
}

await (rest[0] === "go-on" ? goOn() : steps());
process.exit(0);
