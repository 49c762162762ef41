#!/usr/bin/env node
// Signs and verifies with the npm packages of Standard Webhooks and Svix.
//
// usage: standard_webhooks.mjs sign   LIBRARY SECRET [BODY [ID [SECONDS]]]
//        standard_webhooks.mjs verify LIBRARY SECRET < request.json
//
// The same arguments, shapes and exit statuses as standard_webhooks.py. The packages are looked for in
// the folder that INTEROP_NODE names, or in target/tools/node.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const packages = process.env.INTEROP_NODE ?? resolve(here, "../../target/tools/node");
const require = createRequire(resolve(packages, "package.json"));

function webhook(library, secret) {
  if (library !== "standardwebhooks" && library !== "svix") usage();
  let loaded;
  try {
    loaded = require(library);
  } catch (error) {
    console.error(`${error.message}: run scripts/interop/install first`);
    process.exit(2);
  }
  return new loaded.Webhook(secret);
}

function usage() {
  console.error("usage: standard_webhooks.mjs sign|verify standardwebhooks|svix SECRET [BODY [ID [SECONDS]]]");
  process.exit(2);
}

function sign(library, secret, rest) {
  const [
    body = '{"type":"email.opened","data":{"n":9007199254740993,"who":"chloé"}}',
    id = "msg_interop_1",
    seconds = Math.floor(Date.now() / 1000),
  ] = rest;
  const signature = webhook(library, secret).sign(id, new Date(Number(seconds) * 1000), body);
  const headers = { "webhook-id": id, "webhook-timestamp": String(seconds), "webhook-signature": signature };
  console.log(JSON.stringify({ headers, body }));
}

function verify(library, secret) {
  const checker = webhook(library, secret);
  const request = JSON.parse(readFileSync(0, "utf8"));
  try {
    checker.verify(request.body, request.headers);
  } catch (error) {
    console.error(`not verified: ${error.name}: ${error.message}`);
    process.exit(1);
  }
  console.log("verified");
}

const [verb, library, secret, ...rest] = process.argv.slice(2);
if (verb === "sign" && secret !== undefined && rest.length <= 3) sign(library, secret, rest);
else if (verb === "verify" && secret !== undefined && rest.length === 0) verify(library, secret);
else usage();
