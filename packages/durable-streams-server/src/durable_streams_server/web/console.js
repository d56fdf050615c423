/** The console: lists, follows and changes streams, with the same access as any other client. */

import { follow } from './follow.js'

const MOST_SHOWN = 2000
const ROOT = new URL('..', import.meta.url)
const DS = new URL('.', import.meta.url)
const $ = id => document.getElementById(id)

let token = sessionStorage.getItem('durable-streams token') ?? ''
let selected = null
let following = new AbortController()
let kind = 'json'
/** What is shown, so that it can be shown in another way. @type {any[]} */
let shown = []

const streamUrl = path => new URL(path.split('/').map(encodeURIComponent).join('/'), ROOT)
const init = () => ({ headers: token ? { Authorization: `Bearer ${token}` } : {}, credentials: 'same-origin' })

function problem(text = '') {
  $('problem').textContent = text
  $('problem').hidden = !text
}

/** A request that shows what went wrong; undefined then. */
async function request(url, options = {}) {
  try {
    const response = await fetch(url, { ...init(), ...options, headers: { ...init().headers, ...options.headers } })
    if (response.ok) {
      problem()
      return response
    }
    const body = await response.json().catch(() => ({}))
    const detail = body.detail ?? body.error?.message ?? response.statusText
    problem(response.status === 401 ? `${detail} Use “Token…” above, or log in to the application.` : `${response.status}: ${detail}`)
  } catch (error) {
    problem(`The server cannot be reached: ${error.message}`)
  }
}

function element(tag, text = '', properties = {}) {
  const made = Object.assign(document.createElement(tag), properties)
  made.textContent = text
  return made
}

function facts(list, pairs) {
  list.replaceChildren(
    ...pairs.filter(([, value]) => value !== undefined && value !== null && value !== '').map(([name, value]) => {
      const row = element('div')
      row.append(element('dt', name), element('dd', String(value)))
      return row
    }),
  )
}

/** One line of a text field, asked for in a dialog; null when cancelled. */
function ask(label, value = '', type = 'text') {
  $('ask-label').textContent = label
  Object.assign($('ask-value'), { value, type, hidden: type === 'none' })
  $('ask').returnValue = 'cancel'
  $('ask-cancel').onclick = () => $('ask').close('cancel')
  $('ask').showModal()
  return new Promise(resolve => {
    $('ask').onclose = () => resolve($('ask').returnValue === 'ok' ? $('ask-value').value : null)
  })
}

// Listing.

async function list(after = '') {
  const url = new URL('streams', DS)
  url.search = new URLSearchParams({ prefix: $('prefix').value, after })
  const response = await request(url)
  if (!response) return
  const page = await response.json()
  const rows = page.streams.map(stream => {
    const row = element('li')
    const button = element('button', '', { type: 'button', onclick: () => select(stream.path) })
    button.dataset.path = stream.path
    button.append(
      element('strong', stream.path),
      element('small', `${stream.contentType} · ${bytes(stream.size)}${stream.closed ? ' · closed' : ''} · ${age(stream.createdAt)}${stream.readers ? ` · ${stream.readers} reading` : ''}`),
    )
    row.append(button)
    return row
  })
  if (after) $('stream-list').append(...rows)
  else $('stream-list').replaceChildren(...rows)
  $('no-streams').hidden = $('stream-list').childElementCount > 0
  $('more').hidden = !page.next
  $('more').onclick = () => list(page.next)
  mark()
}

function mark() {
  for (const button of document.querySelectorAll('nav ul button')) {
    button.setAttribute('aria-current', String(button.dataset.path === selected))
  }
}

const bytes = size => (size < 1024 ? `${size} B` : size < 2 ** 20 ? `${(size / 1024).toFixed(1)} KiB` : `${(size / 2 ** 20).toFixed(1)} MiB`)

function age(moment) {
  const seconds = Math.max(0, (Date.now() - Date.parse(moment)) / 1000)
  for (const [size, unit] of [[86400, 'd'], [3600, 'h'], [60, 'min']]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} old`
  }
  return `${Math.floor(seconds)} s old`
}

// One stream.

async function select(path) {
  following.abort()
  following = new AbortController()
  const { signal } = following
  selected = path
  shown = []
  mark()
  $('nothing').hidden = true
  $('subscription').hidden = true
  $('stream').hidden = false
  $('path').textContent = path
  $('messages').replaceChildren()
  $('status').textContent = ''
  if (!(await describe()) || signal.aborted) return
  $('view').value = kind === 'bytes' ? 'hex' : kind
  try {
    await follow(streamUrl(path), {
      signal,
      init: init(),
      onBatch: batch => show(kind === 'json' ? batch : [batch]),
      onStatus: async status => {
        $('status').textContent = status
        if (status === 'reset') {
          // The new stream may have another content type.
          await describe()
          shown = []
          $('messages').replaceChildren(element('li', 'The stream was replaced by a new one.', { className: 'note' }))
        }
        if (status === 'closed') void describe()
      },
    })
  } catch (error) {
    if (!signal.aborted) problem(error.message)
  }
}

async function describe() {
  const path = selected
  const response = await request(streamUrl(path), { method: 'HEAD' })
  // Another stream may have been chosen since.
  if (path !== selected) return false
  if (!response) {
    facts($('facts'), [])
    return false
  }
  const { headers } = response
  const type = headers.get('content-type') ?? ''
  kind = type.startsWith('application/json') ? 'json' : type.startsWith('text/') ? 'text' : 'bytes'
  const row = [...document.querySelectorAll('#stream-list button')].find(b => b.dataset.path === path)
  facts($('facts'), [
    ['Content type', type],
    ['Tail', headers.get('stream-next-offset')],
    ['State', headers.has('stream-closed') ? 'closed' : 'open'],
    ['TTL', headers.get('stream-ttl') && `${headers.get('stream-ttl')} s`],
    ['Expires', headers.get('stream-expires-at')],
    ['Listed', row?.querySelector('small').textContent],
  ])
  for (const id of ['append', 'close-stream']) $(id).hidden = headers.has('stream-closed')
  return true
}

function show(items) {
  shown = shown.concat(items).slice(-MOST_SHOWN)
  const list = $('messages')
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40
  list.append(...items.slice(-MOST_SHOWN).map(line))
  while (list.childElementCount > MOST_SHOWN) list.firstChild.remove()
  if (atEnd) list.scrollTop = list.scrollHeight
}

function line(item) {
  const row = element('li')
  const view = $('view').value
  if (view === 'json' && kind === 'json') {
    const text = JSON.stringify(item)
    if (item !== null && typeof item === 'object' && text.length > 80) {
      const folded = element('details')
      folded.append(element('summary', `${text.slice(0, 77)}…`), element('pre', JSON.stringify(item, null, 2)))
      row.append(folded)
    } else row.textContent = text
    return row
  }
  const raw = item instanceof Uint8Array ? item : new TextEncoder().encode(kind === 'json' ? JSON.stringify(item) : item)
  row.textContent = view === 'hex' ? hex(raw) : new TextDecoder().decode(raw)
  return row
}

function hex(data) {
  const lines = []
  for (let at = 0; at < Math.min(data.length, 4096); at += 16) {
    const row = data.subarray(at, at + 16)
    const digits = Array.from(row, byte => byte.toString(16).padStart(2, '0')).join(' ')
    const text = Array.from(row, byte => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : '.')).join('')
    lines.push(`${at.toString(16).padStart(8, '0')}  ${digits.padEnd(48)} ${text}`)
  }
  if (data.length > 4096) lines.push(`… ${data.length - 4096} more bytes`)
  return lines.join('\n')
}

$('view').onchange = () => $('messages').replaceChildren(...shown.map(line))

$('copy').onclick = async () => {
  const quoted = text => `'${text.replaceAll("'", `'\\''`)}'`
  const access = token ? ` -H 'Authorization: Bearer '"$TOKEN"` : ''
  await navigator.clipboard.writeText(`curl -N${access} ${quoted(`${streamUrl(selected)}?offset=-1&live=sse`)}`)
  $('status').textContent = 'copied'
}

$('append').onsubmit = async event => {
  event.preventDefault()
  const type = kind === 'json' ? 'application/json' : $('facts').querySelector('dd').textContent
  if (await request(streamUrl(selected), { method: 'POST', body: $('data').value, headers: { 'Content-Type': type } })) {
    $('data').value = ''
    void describe()
  }
}

$('close-stream').onclick = async () => {
  if ((await ask(`Close ${selected}? Nothing can be appended after that.`, '', 'none')) === null) return
  if (await request(streamUrl(selected), { method: 'POST', headers: { 'Stream-Closed': 'true' } })) void describe()
}

$('delete').onclick = async () => {
  if ((await ask(`Delete ${selected} and everything in it?`, '', 'none')) === null) return
  if (!(await request(streamUrl(selected), { method: 'DELETE' }))) return
  following.abort()
  $('stream').hidden = true
  $('nothing').hidden = false
  selected = null
  void list()
}

$('fork').onclick = async () => {
  const path = await ask('Path of the fork', `${selected}-fork`)
  if (!path) return
  const source = streamUrl(selected).pathname
  if (await request(streamUrl(path), { method: 'PUT', headers: { 'Stream-Forked-From': source } })) {
    await list()
    void select(path)
  }
}

$('create').onsubmit = async event => {
  event.preventDefault()
  const path = $('new-path').value
  if (await request(streamUrl(path), { method: 'PUT', headers: { 'Content-Type': $('new-type').value } })) {
    $('new-path').value = ''
    await list()
    void select(path)
  }
}

// Subscriptions.

async function listSubscriptions() {
  const response = await request(new URL('subscriptions', DS))
  if (!response) return
  const { subscriptions } = await response.json()
  $('subscription-list').replaceChildren(
    ...subscriptions.map(({ id, type, status }) => {
      const row = element('li')
      const button = element('button', '', { type: 'button', onclick: () => selectSubscription(id) })
      button.dataset.path = `subscription ${id}`
      button.append(element('strong', id), element('small', `${type} · ${status}`))
      row.append(button)
      return row
    }),
  )
  $('no-subscriptions').hidden = subscriptions.length > 0
}

async function selectSubscription(id) {
  following.abort()
  const response = await request(new URL(`subscriptions/${encodeURIComponent(id)}`, DS))
  if (!response) return
  const found = await response.json()
  selected = `subscription ${id}`
  mark()
  $('nothing').hidden = true
  $('stream').hidden = true
  $('subscription').hidden = false
  $('subscription-id').textContent = id
  const { lease } = found
  facts($('subscription-facts'), [
    ['Type', found.type],
    ['Status', found.status],
    ['Pattern', found.pattern],
    ['Webhook', found.webhook?.url],
    ['Wake stream', found.wake_stream],
    ['Lease', lease && `${lease.phase}, generation ${lease.generation}${lease.worker ? `, held by ${lease.worker}` : ''}${lease.until ? ` until ${lease.until}` : ''}`],
    ['Next attempt', found.next_attempt_at],
    ['Created', found.created_at],
  ])
  $('cursors').replaceChildren(
    ...found.streams.map(stream => {
      const row = element('tr')
      row.append(element('td', stream.path), element('td', stream.acked_offset), element('td', stream.link_type))
      return row
    }),
  )
}

// The page.

function open(tab) {
  for (const name of ['streams', 'subscriptions']) {
    $(`tab-${name}`).setAttribute('aria-selected', String(name === tab))
    $(`tab-${name}`).tabIndex = name === tab ? 0 : -1
    $(name).hidden = name !== tab
  }
  void (tab === 'streams' ? list() : listSubscriptions())
}

for (const name of ['streams', 'subscriptions']) {
  $(`tab-${name}`).onclick = () => open(name)
  $(`tab-${name}`).onkeydown = ({ key }) => {
    if (key !== 'ArrowLeft' && key !== 'ArrowRight') return
    const other = name === 'streams' ? 'subscriptions' : 'streams'
    open(other)
    $(`tab-${other}`).focus()
  }
}

$('search').onsubmit = event => {
  event.preventDefault()
  open('streams')
}

$('access').onclick = async () => {
  const given = await ask('Bearer token, kept for this tab only', token, 'password')
  if (given === null) return
  token = given
  sessionStorage.setItem('durable-streams token', token)
  open('streams')
}

open('streams')
