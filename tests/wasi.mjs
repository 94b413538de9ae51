// wasi.mjs: runs a WebAssembly program with the files of this folder, as `node tests/wasi.mjs
// PROGRAM ARGUMENT..`; exits with its exit code.
import { readFileSync } from 'node:fs';
import { WASI } from 'node:wasi';

const args = process.argv.slice(2);
const wasi = new WASI({
    version: 'preview1', args, env: process.env, preopens: { '.': '.' }, returnOnExit: true
});
const { instance } = await WebAssembly.instantiate(
    readFileSync(args[0]), { wasi_snapshot_preview1: wasi.wasiImport });
process.exitCode = wasi.start(instance);
