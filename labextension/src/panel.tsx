/**
 * The panel in the left sidebar: the runs near the folder that is open, the agents of one, and what a person wants of it.
 *
 * What models wrote is only ever shown as text: React escapes it, and nothing here hands HTML to it.
 */

import { ReactWidget } from '@jupyterlab/ui-components';
import type { ServerConnection } from '@jupyterlab/services';
import * as React from 'react';
import { type Agent, type Bar, type Listed, type Proposal, type Run, ask } from './server';

/** Milliseconds between two looks while the panel is seen. */
const PERIOD = 1000;

/** What the panel has JupyterLab do. */
export interface Desk {
  settings: ServerConnection.ISettings;
  /** The folder that the file browser shows. */
  folder(): string;
  open(path: string): void;
  attach(kernel: string, folder: string): void;
}

export class RunsPanel extends ReactWidget {
  private run = '';
  private readonly choose = (run: string): void => {
    this.run = run;
    this.update();
  };

  constructor(private readonly desk: Desk) {
    super();
    this.id = 'rlm-nb-runs';
    this.addClass('rlm-Panel');
    this.title.caption = 'Runs of agents';
    this.title.label = 'Agents';
  }

  protected render(): React.JSX.Element {
    return <Panel desk={this.desk} isSeen={() => this.isVisible && !document.hidden} run={this.run} choose={this.choose} />;
  }
}

/** The value of a question that is asked again and again while the panel is seen. */
function useAnswer<T>(question: () => Promise<T> | undefined, isSeen: () => boolean, about: string): T | undefined {
  const [answer, setAnswer] = React.useState<{ about: string; value: T }>();
  React.useEffect(() => {
    let timer: number | undefined;
    let gone = false;
    const look = async (): Promise<void> => {
      try {
        const value = isSeen() ? await question() : undefined;
        if (!gone && value !== undefined) {
          setAnswer({ about, value });
        }
      } catch (error) {
        console.debug('rlm-nb: the server does not say how runs stand', error);
      }
      if (!gone) {
        timer = window.setTimeout(() => void look(), PERIOD);
      }
    };
    void look();
    return () => {
      gone = true;
      window.clearTimeout(timer);
    };
  }, [about]);
  return answer?.about === about ? answer.value : undefined;
}

function Panel(props: { desk: Desk; isSeen: () => boolean; run: string; choose: (run: string) => void }): React.JSX.Element {
  const { desk, isSeen, run, choose } = props;
  const [trouble, setTrouble] = React.useState('');
  const runs = useAnswer(
    () => ask<Listed[]>(desk.settings, 'runs', { folder: desk.folder() }),
    isSeen,
    'runs'
  );
  const shown = useAnswer(() => (run ? ask<Run>(desk.settings, 'run', { run }) : undefined), isSeen, run);
  const post = async (name: string, body: object): Promise<{ run?: string }> => {
    try {
      setTrouble('');
      return await ask<{ run?: string }>(desk.settings, name, {}, body);
    } catch (error) {
      setTrouble(error instanceof Error ? error.message : String(error));
      return {};
    }
  };
  return (
    <>
      <Begin folder={desk.folder} post={post} choose={choose} />
      {trouble && (
        <div className="rlm-Trouble" role="alert">
          {trouble}
        </div>
      )}
      {shown && <Chosen run={shown} desk={desk} post={post} close={() => choose('')} />}
      <ul className="rlm-Runs" aria-label="Runs">
        {(runs ?? []).map(one => (
          <li key={one.run} className={one.run === run ? 'rlm-mod-chosen' : ''}>
            <button onClick={() => choose(one.run)} title={one.task}>
              <Status of={one.status} /> <span className="rlm-Name">{one.id}</span>
              <span className="rlm-Cost">{one.cost === null ? '' : money(one.cost)}</span>
              <span className="rlm-Task">{one.task}</span>
            </button>
          </li>
        ))}
      </ul>
      {runs?.length === 0 && <p className="rlm-Hint">No runs are recorded here.</p>}
    </>
  );
}

type Post = (name: string, body: object) => Promise<{ run?: string }>;

function Begin(props: { folder: () => string; post: Post; choose: (run: string) => void }): React.JSX.Element {
  const [task, setTask] = React.useState('');
  const [model, setModel] = React.useState('');
  const [cost, setCost] = React.useState('');
  const [approve, setApprove] = React.useState(false);
  const [busy, setBusy] = React.useState(false);
  const start = async (): Promise<void> => {
    setBusy(true);
    const max_cost = cost.trim() === '' ? null : Number(cost);
    const { run } = await props.post('start', { folder: props.folder(), task, model: model.trim(), max_cost, approve });
    setBusy(false);
    if (run !== undefined) {
      setTask('');
      props.choose(run);
    }
  };
  return (
    <details className="rlm-Begin">
      <summary>Start a run on this folder</summary>
      <p className="rlm-Hint">{`/${props.folder()}`}</p>
      <textarea aria-label="Task" placeholder="What is to be done?" value={task} onChange={e => setTask(e.target.value)} />
      <label>
        Model <input aria-label="Model" placeholder="as set" value={model} onChange={e => setModel(e.target.value)} />
      </label>
      <label>
        At most $
        <input aria-label="At most" placeholder="as set" type="number" min="0" step="any" value={cost} onChange={e => setCost(e.target.value)} />
      </label>
      <label>
        <input type="checkbox" checked={approve} onChange={e => setApprove(e.target.checked)} /> Ask me before cells run
      </label>
      <button className="jp-mod-styled jp-mod-accept" disabled={busy || task.trim() === ''} onClick={() => void start()}>
        {busy ? 'Starting …' : 'Start'}
      </button>
    </details>
  );
}

function Chosen(props: { run: Run; desk: Desk; post: Post; close: () => void }): React.JSX.Element {
  const { run, desk, post } = props;
  return (
    <section className="rlm-Run" aria-label={run.id}>
      <header>
        <Status of={run.status} /> <b>{run.id}</b>
        <span className="rlm-Buttons">
          {run.reachable && (
            <button onClick={() => void post('stop', { run: run.run })} title="Stop the run, and keep what there is">
              Stop the run
            </button>
          )}
          <button onClick={props.close} title="Show no run">
            ×
          </button>
        </span>
      </header>
      <p className="rlm-Task">{run.task}</p>
      {run.stop_reason && <p className="rlm-Hint">{run.stop_reason}</p>}
      {run.waiting.map(one => (
        <Waiting key={one.key} proposal={one} decide={body => void post('decide', { run: run.run, ...body })} />
      ))}
      {run.budget.map(bar => (
        <Spent key={bar.kind} bar={bar} />
      ))}
      <ul className="rlm-Agents" aria-label="Agents">
        <Node agent={run.tree} run={run} desk={desk} post={post} />
      </ul>
    </section>
  );
}

function Node(props: { agent: Agent; run: Run; desk: Desk; post: Post }): React.JSX.Element {
  const { agent, run, desk, post } = props;
  const { notebook, kernel } = agent;
  return (
    <li>
      <div className="rlm-Agent" title={agent.fault ?? agent.task}>
        <Status of={agent.status} />
        {notebook === null ? (
          <span className="rlm-Name">{agent.agent}</span>
        ) : (
          <button className="rlm-Name" onClick={() => desk.open(notebook)} title="Open its notebook">
            {agent.agent}
          </button>
        )}
        <span>
          {agent.iterations} {agent.iterations === 1 ? 'iteration' : 'iterations'} · {money(agent.cost)}
        </span>
        {agent.status === 'running' && (
          <span className="rlm-Buttons">
            {kernel !== null && (
              <button onClick={() => desk.attach(kernel, run.run)} title="Open a console in its kernel">
                Attach
              </button>
            )}
            {run.reachable && (
              <button onClick={() => void post('stop', { run: run.run, agent: agent.agent })} title="Stop it and all below it">
                Stop
              </button>
            )}
          </span>
        )}
      </div>
      {agent.children.length > 0 && (
        <ul>
          {agent.children.map(child => (
            <Node key={child.agent} agent={child} run={run} desk={desk} post={post} />
          ))}
        </ul>
      )}
    </li>
  );
}

function Waiting(props: { proposal: Proposal; decide: (body: object) => void }): React.JSX.Element {
  const { proposal } = props;
  const [code, setCode] = React.useState(proposal.code);
  const [said, setSaid] = React.useState('');
  const [decided, setDecided] = React.useState(false);
  const decide = (body: object): void => {
    setDecided(true);
    props.decide({ agent: proposal.agent, key: proposal.key, ...body });
  };
  const edited = code.some((cell, index) => cell !== proposal.code[index]);
  return (
    <div className="rlm-Waiting" role="group" aria-label={`${proposal.agent} waits`}>
      <p>
        <b>{proposal.agent}</b>, iteration {proposal.number}, waits for you:
      </p>
      <details>
        <summary>What it says</summary>
        <pre>{proposal.text}</pre>
      </details>
      {code.length === 0 && <p className="rlm-Hint">{proposal.note ?? 'There is no cell in this reply.'}</p>}
      {code.map((cell, index) => (
        <textarea
          key={index}
          aria-label={`Cell ${index + 1}`}
          spellCheck={false}
          rows={Math.min(16, cell.split('\n').length + 1)}
          value={cell}
          onChange={e => setCode(code.map((old, at) => (at === index ? e.target.value : old)))}
        />
      ))}
      <input aria-label="Say" placeholder="A word to the model, if it is not to run" value={said} onChange={e => setSaid(e.target.value)} />
      <span className="rlm-Buttons">
        <button
          className="jp-mod-styled jp-mod-accept"
          disabled={decided}
          onClick={() => decide(edited ? { code: code.filter(cell => cell.trim() !== '') } : {})}
        >
          {edited ? 'Run as edited' : 'Run'}
        </button>
        <button className="jp-mod-styled" disabled={decided} onClick={() => decide({ skip: true, said })}>
          Do not run
        </button>
      </span>
    </div>
  );
}

const KINDS: Record<string, string> = {
  cost_usd: 'money',
  input_tokens: 'tokens read',
  output_tokens: 'tokens written',
  calls: 'calls',
  sandboxes: 'agents',
  seconds: 'time'
};

function Spent(props: { bar: Bar }): React.JSX.Element {
  const { kind, spent, reserved, limit } = props.bar;
  const say = kind === 'cost_usd' ? money : kind === 'seconds' ? time : (value: number) => value.toLocaleString('en');
  const share = (value: number): string => `${limit > 0 ? Math.min(100, (100 * value) / limit) : 100}%`;
  return (
    <div className="rlm-Bar" title={reserved ? `${say(reserved)} more is reserved` : ''}>
      <span>{KINDS[kind] ?? kind}</span>
      <div role="meter" aria-label={KINDS[kind] ?? kind} aria-valuemin={0} aria-valuemax={limit} aria-valuenow={spent}>
        <i style={{ width: share(spent) }} />
        <i className="rlm-mod-reserved" style={{ width: share(reserved) }} />
      </div>
      <span>
        {say(spent)} of {say(limit)}
      </span>
    </div>
  );
}

const SIGNS: Record<string, string> = { running: '●', completed: '✓', partial: '◐' };

function Status(props: { of: string }): React.JSX.Element {
  return (
    <span className="rlm-Status" data-status={props.of} title={props.of}>
      {SIGNS[props.of] ?? '✗'}
    </span>
  );
}

function money(dollars: number): string {
  return `$${dollars.toFixed(dollars < 0.1 ? 4 : 2)}`;
}

function time(seconds: number): string {
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}h${String(minutes).padStart(2, '0')}m` : minutes ? `${minutes}m${whole % 60}s` : `${whole}s`;
}
