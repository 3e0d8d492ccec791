"use strict";
// Asks the server for a clip and plays, draws and keeps it while it comes in.

const $ = (id) => document.getElementById(id);
const LEAD = 0.15; // Seconds of sound that are there before it begins to play.
const FRAME = 512, HOP = 128; // Samples of a column of the spectrogram, and from one to the next.
const COLORS = Uint32Array.from({ length: 256 }, (_, k) => { // From dark to light, as ABGR.
  const light = k / 255;
  const rgb = [255 * light ** 0.8, 255 * light ** 2, 160 * light ** 0.5 * (1 - light / 2)];
  return rgb.reduce((color, part, i) => color | Math.round(part) << 8 * i, 0xff000000);
});
const MAX_FILE = 100e6; // Bytes that the browser is asked to read.

let about, request, audio, clip, prompt, recorder;

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

async function start() {
  about = await (await fetch("about")).json();
  $("model").textContent = about.model;
  const classes = [...Array(about.classes).keys()].map((k) => [k, about.names[k] ?? `${k}`]);
  const offered = about.any ? [["", "any"], ...classes] : classes;
  $("label").replaceChildren(...offered.map(([value, name]) => new Option(name, value)));
  $("label-box").hidden = !about.classes;
  $("guidance-box").hidden = !about.guidance;
  const guide = () => { $("guidance").disabled = $("label").value === ""; };
  $("label").addEventListener("change", guide);
  guide();
  for (const id of ["seconds", "temperature", "guidance"]) {
    const show = () => { $(`${id}-value`).textContent = Number($(id).value).toFixed(1); };
    $(id).addEventListener("input", show);
    show();
  }
  $("speak").disabled = false;
  say("Ready");
}

function query() {
  const fields = { seconds: $("seconds").value, temperature: $("temperature").value };
  fields.seed = Math.floor(Math.random() * 2 ** 32);
  if (about.classes && $("label").value !== "") {
    fields.label = $("label").value;
    if (about.guidance) fields.guidance = $("guidance").value;
  }
  return new URLSearchParams(fields);
}

async function speak() {
  clip?.stop();
  $("again").pause();
  request = new AbortController();
  $("speak").disabled = true;
  $("stop").disabled = false;
  $("stop").focus();
  say("Waiting for the first sound");
  try {
    audio ??= new AudioContext({ sampleRate: about.sample_rate });
    audio.resume(); // Without a device for sound it never answers.
    clip = new Clip(Number($("seconds").value) + (prompt?.seconds ?? 0));
    const options = { method: "POST", body: prompt?.file ?? new Blob(), signal: request.signal };
    const answer = await fetch(`speak?${query()}`, options).catch((error) => {
      throw error.name === "AbortError" ? error : new Error("The server does not answer");
    });
    if (!answer.ok) throw new Error((await answer.json()).error);
    await readClip(answer.body.getReader(), clip);
    clip.end();
  } catch (error) {
    clip?.stop();
    if (error.name === "AbortError") say("Stopped");
    else say(error.message, true);
  }
  $("speak").disabled = false;
}

function stop() {
  request?.abort();
  clip?.stop();
}

// Lines of JSON, of which some are followed by samples; see the server.
async function readClip(reader, clip) {
  let bytes = new Uint8Array(0), wanted = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The clip broke off: does the server still run?");
    const joined = new Uint8Array(bytes.length + value.length);
    joined.set(bytes);
    joined.set(value, bytes.length);
    bytes = joined;
    for (;;) {
      if (wanted) {
        if (bytes.length < wanted) break;
        clip.add(new Int16Array(bytes.slice(0, wanted).buffer));
        bytes = bytes.slice(wanted);
        wanted = 0;
      }
      const end = bytes.indexOf(10);
      if (end < 0) break;
      const line = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
      bytes = bytes.slice(end + 1);
      if (line.error) throw new Error(line.error);
      if (line.done) return;
      if (line.waiting) say(`Waiting: ${line.waiting} before you`);
      if (line.waiting === 0) say("Waiting for the first sound");
      if (line.samples) wanted = 2 * line.samples;
    }
  }
}

class Clip {
  constructor(wanted) {
    this.wanted = wanted; // Seconds, prompt included.
    this.asked = performance.now();
    this.parts = [];
    this.length = 0;
    this.pending = [];
    this.sources = new Set();
    this.gaps = 0;
    this.pictures = new Pictures();
    $("again").hidden = $("save").hidden = true;
    $("progress").textContent = "";
  }

  add(pcm) {
    if (this.first === undefined) {
      this.first = performance.now();
      this.head = pcm.length;
      say("Playing");
    }
    const samples = Float32Array.from(pcm, (x) => x / 32768);
    this.parts.push(pcm);
    this.length += pcm.length;
    this.pictures.add(samples);
    this.pending.push(samples);
    if (this.next !== undefined || this.isReady()) this.play();
    this.tell();
  }

  get seconds() {
    return this.length / about.sample_rate;
  }

  // Seconds of sound in a second, since the first block: a prompt comes in one.
  get speed() {
    const took = (performance.now() - this.first) / 1000;
    return took > 0.1 ? (this.length - this.head) / about.sample_rate / took : undefined;
  }

  // Whether it can begin to play, and never wait for more.
  isReady() {
    if (this.speed === undefined) return false;
    return this.seconds >= LEAD + Math.max(0, 1 - this.speed) * this.wanted;
  }

  tell() {
    const first = ((this.first - this.asked) / 1000).toFixed(2);
    const speed = this.speed === undefined ? "" : `, ${this.speed.toFixed(1)} x real time`;
    const gaps = this.gaps ? `, ${this.gaps} gaps` : "";
    $("progress").textContent =
      `${this.seconds.toFixed(2)} s, first sound after ${first} s${speed}${gaps}`;
  }

  play() {
    for (const samples of this.pending.splice(0)) {
      const buffer = audio.createBuffer(1, samples.length, about.sample_rate);
      buffer.copyToChannel(samples, 0);
      const source = new AudioBufferSourceNode(audio, { buffer });
      source.connect(audio.destination);
      const soon = audio.currentTime + 0.01;
      if (this.next !== undefined && this.next < soon) this.gaps += 1;
      const at = Math.max(this.next ?? 0, soon);
      source.start(at);
      this.next = at + buffer.duration;
      this.sources.add(source);
      source.onended = () => {
        this.sources.delete(source);
        if (this.whole && !this.sources.size && clip === this) $("stop").disabled = true;
      };
    }
  }

  stop() {
    for (const source of this.sources) source.stop();
    $("stop").disabled = true;
  }

  end() {
    this.whole = true;
    this.play();
    this.tell();
    this.pictures.draw();
    say("Done");
    URL.revokeObjectURL($("again").src);
    const url = URL.createObjectURL(wav(this.parts, about.sample_rate));
    $("again").src = $("save").href = url;
    $("save").download = "poolformer.wav";
    $("again").hidden = $("save").hidden = false;
  }
}

// Waveform and spectrogram, which grow to the right and are squeezed when they are full.
class Pictures {
  constructor() {
    this.samples = new Float32Array(about.sample_rate);
    this.length = 0;
    this.columns = [];
    this.loudest = -20;
    this.draw();
  }

  add(samples) {
    while (this.length + samples.length > this.samples.length) {
      const longer = new Float32Array(2 * this.samples.length);
      longer.set(this.samples);
      this.samples = longer;
    }
    this.samples.set(samples, this.length);
    this.length += samples.length;
    while ((this.columns.length * HOP) + FRAME <= this.length) {
      const first = this.columns.length * HOP;
      const column = decibels(this.samples.subarray(first, first + FRAME));
      this.loudest = column.reduce((most, level) => Math.max(most, level), this.loudest);
      this.columns.push(column);
    }
    // Now and then: the model needs the processor too.
    this.scheduled ??= setTimeout(() => { this.scheduled = undefined; this.draw(); }, 120);
  }

  draw() {
    const wave = canvas("wave"), scale = this.samples.length / wave.width;
    const ink = getComputedStyle(document.body).getPropertyValue("--accent");
    wave.context.fillStyle = ink;
    for (let x = 0; x < wave.width && x * scale < this.length; x += 1) {
      let low = 0, high = 0;
      for (let i = Math.floor(x * scale); i < Math.min((x + 1) * scale, this.length); i += 1) {
        low = Math.min(low, this.samples[i]);
        high = Math.max(high, this.samples[i]);
      }
      const top = (1 - high) * wave.height / 2;
      wave.context.fillRect(x, top, 1, Math.max(1, (high - low) * wave.height / 2));
    }
    const image = canvas("spectrogram"), bins = FRAME / 2;
    const pixels = image.context.createImageData(image.width, image.height);
    const colors = new Uint32Array(pixels.data.buffer);
    const all = (this.samples.length - FRAME) / HOP + 1;
    for (let x = 0; x < image.width; x += 1) {
      const column = this.columns[Math.floor(x * all / image.width)];
      if (!column) break;
      for (let y = 0; y < image.height; y += 1) {
        const level = column[Math.floor((1 - (y + 1) / image.height) * bins)];
        const light = Math.max(0, 1 + (level - this.loudest) / 70);
        colors[y * image.width + x] = COLORS[Math.round(255 * light)];
      }
    }
    image.context.putImageData(pixels, 0, 0);
  }
}

function canvas(id) {
  const element = $(id), density = window.devicePixelRatio;
  element.width = element.clientWidth * density;
  element.height = element.clientHeight * density;
  const { width, height } = element;
  return { context: element.getContext("2d"), width, height };
}

// Levels of the frequencies of a frame: a Hann window and the fast Fourier transform.
function decibels(frame) {
  const n = frame.length, re = new Float64Array(n), im = new Float64Array(n);
  for (let i = 0, j = 0; i < n; i += 1) {
    re[j] = frame[i] * (0.5 - 0.5 * Math.cos(2 * Math.PI * i / n));
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let first = 0; first < n; first += size) {
      for (let k = 0; k < size / 2; k += 1) {
        const angle = -2 * Math.PI * k / size, c = Math.cos(angle), s = Math.sin(angle);
        const a = first + k, b = a + size / 2;
        const x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
        re[b] = re[a] - x; im[b] = im[a] - y;
        re[a] += x; im[a] += y;
      }
    }
  }
  return Float32Array.from({ length: n / 2 }, (_, k) => 10 * Math.log10(re[k] ** 2 + im[k] ** 2 + 1e-9));
}

function wav(parts, rate) {
  const bytes = 2 * parts.reduce((sum, part) => sum + part.length, 0);
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((c, i) => header.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); header.setUint32(4, 36 + bytes, true); text(8, "WAVEfmt ");
  header.setUint32(16, 16, true); header.setUint16(20, 1, true); header.setUint16(22, 1, true);
  header.setUint32(24, rate, true); header.setUint32(28, 2 * rate, true);
  header.setUint16(32, 2, true); header.setUint16(34, 16, true);
  text(36, "data"); header.setUint32(40, bytes, true);
  return new Blob([header, ...parts], { type: "audio/wav" });
}

// Any recording that the browser can read, as one channel at the model's rate.
async function usePrompt(file, name) {
  try {
    if (file.size > MAX_FILE) {
      throw new Error(`${name} has ${(file.size / 1e6).toFixed()} MB; give a shorter recording`);
    }
    const context = new OfflineAudioContext(1, 1, about.sample_rate);
    const sound = await context.decodeAudioData(await file.arrayBuffer()).catch(() => {
      throw new Error(`${name} is no recording that this browser can read; give a WAV file`);
    });
    const seconds = sound.duration;
    if (seconds > about.max_seconds) {
      throw new Error(`${name} has ${seconds.toFixed(1)} s; give at most ${about.max_seconds} s`);
    }
    const mixed = Float32Array.from(sound.getChannelData(0));
    for (let k = 1; k < sound.numberOfChannels; k += 1) {
      sound.getChannelData(k).forEach((x, i) => { mixed[i] += x; });
    }
    const pcm = Int16Array.from(mixed, (x) =>
      Math.max(-32768, Math.min(32767, Math.round(32768 * x / sound.numberOfChannels))));
    prompt = { file: wav([pcm], about.sample_rate), seconds };
    $("prompt").textContent = `${name}, ${seconds.toFixed(2)} s`;
    $("clear").hidden = false;
    if (!$("speak").disabled) say("Ready");
  } catch (error) {
    clearPrompt();
    say(error.message, true);
  }
}

function clearPrompt() {
  prompt = undefined;
  $("file").value = $("prompt").textContent = "";
  $("clear").hidden = true;
}

async function record() {
  if (recorder) {
    recorder.stop();
    return;
  }
  $("record").disabled = true; // Until it is decided whether it may.
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const parts = [];
    recorder = new MediaRecorder(stream);
    const limit = setTimeout(() => recorder.stop(), 1000 * (about.max_seconds - 1));
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = () => {
      clearTimeout(limit);
      stream.getTracks().forEach((track) => track.stop());
      recorder = undefined;
      $("record").textContent = "Record";
      $("file").value = "";
      usePrompt(new Blob(parts), "Recording");
    };
    recorder.start();
    $("record").textContent = "Stop recording";
  } catch (error) {
    say(`No microphone: ${error.message}`, true);
  }
  $("record").disabled = false;
}

$("form").addEventListener("submit", (event) => event.preventDefault());
$("speak").addEventListener("click", speak);
$("stop").addEventListener("click", stop);
$("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) usePrompt(file, file.name);
});
$("record").addEventListener("click", record);
$("clear").addEventListener("click", clearPrompt);
start().catch((error) => say(`The server does not answer: ${error.message}`, true));
