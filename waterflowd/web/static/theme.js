for(let t of["theme","density"])try{let e=localStorage.getItem(`waterflow-${t}`);e&&(document.documentElement.dataset[t]=e)}catch{}
