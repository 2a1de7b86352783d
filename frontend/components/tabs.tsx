"use client";

/** Names to choose one of. */
export function Tabs<Name extends string>({
  names,
  chosen,
  onChoose,
  label,
}: {
  names: readonly Name[];
  chosen: Name;
  onChoose: (name: Name) => void;
  label: string;
}) {
  return (
    <div role="tablist" aria-label={label} className="flex gap-1 rounded-lg bg-page p-1">
      {names.map((name) => (
        <button
          key={name}
          type="button"
          role="tab"
          aria-selected={name === chosen}
          onClick={() => onChoose(name)}
          className={`h-8 flex-1 rounded-md px-3 font-medium whitespace-nowrap transition ${name === chosen ? "bg-raised text-strong" : "text-quiet hover:text-text"}`}
        >
          {name}
        </button>
      ))}
    </div>
  );
}
